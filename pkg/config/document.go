package config

import (
	"fmt"
	"strings"
)

// EnvExample is the text of .env.example: every variable with what it is for,
// what is allowed, and its default.
func EnvExample() string {
	var b strings.Builder
	b.WriteString("# Postcall's settings. Copy this file to .env and fill in what has no default.\n" +
		"# Written by `task generate` from pkg/config: change them there.\n")
	for _, v := range Variables() {
		fmt.Fprintf(&b, "\n# %s.\n# Read by %s. Allowed: %s.\n", v.Text, strings.Join(v.Readers, " and "), v.Allowed)
		switch {
		case v.Required != "":
			fmt.Fprintf(&b, "# Required by %s.\n%s=\n", v.Required, v.Name)
		case v.Default == "":
			fmt.Fprintf(&b, "#%s=\n", v.Name)
		default:
			fmt.Fprintf(&b, "#%s=%s\n", v.Name, v.Default)
		}
	}
	return b.String()
}

// Table is the variables as a Markdown table.
func Table() string {
	var b strings.Builder
	b.WriteString("| variable | read by | default | what it is for |\n|---|---|---|---|\n")
	for _, v := range Variables() {
		def := "–"
		switch {
		case v.Required != "":
			def = "required by " + v.Required
		case v.Default != "":
			def = "`" + v.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s (%s) |\n", v.Name, strings.Join(v.Readers, ", "), def, v.Text, v.Allowed)
	}
	return b.String()
}
