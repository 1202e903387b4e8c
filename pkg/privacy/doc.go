// Package privacy lets an installation forget: by age, which is Retention, and
// by person or call, which is an Eraser. It also gives a person a copy of what
// is kept of them.
package privacy
