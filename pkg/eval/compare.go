package eval

// Change is how two configurations stand to each other in one field, over the
// calls that both were judged on.
type Change struct {
	Name   string `json:"name"`
	First  Share  `json:"first"`
	Second Share  `json:"second"`
	// Gained calls agree with their label in the second only, Lost ones in the
	// first only. With few of both the difference is chance.
	Gained int `json:"gained"`
	Lost   int `json:"lost"`
}

// Difference is a field of a call in which two configurations differ: in the
// value, or in what the value is worth.
type Difference struct {
	First  Verdict `json:"first"`
	Second Verdict `json:"second"`
}

// Comparison is two reports on the same calls side by side.
type Comparison struct {
	Changes     []Change     `json:"changes"`
	Differences []Difference `json:"differences"`
}

// Compare holds two reports on the same calls against each other. Two texts
// that both agree with the label are no difference, however they are worded.
func Compare(first, second Report) Comparison {
	type place struct{ call, field string }
	seconds := map[place]Verdict{}
	for _, v := range second.Verdicts {
		seconds[place{v.Call, v.Field}] = v
	}
	c := Comparison{Differences: []Difference{}}
	changes := map[string]*Change{}
	for _, name := range fields {
		changes[name] = &Change{Name: name}
	}
	for _, a := range first.Verdicts {
		b, both := seconds[place{a.Call, a.Field}]
		if !both {
			continue
		}
		change := changes[a.Field]
		change.First.add(a.Kind == Agreed)
		change.Second.add(b.Kind == Agreed)
		switch {
		case a.Kind == Agreed && b.Kind != Agreed:
			change.Lost++
		case a.Kind != Agreed && b.Kind == Agreed:
			change.Gained++
		case a.Kind == Agreed || a.Got == b.Got && a.Kind == b.Kind:
			continue
		}
		c.Differences = append(c.Differences, Difference{a, b})
	}
	for _, name := range fields {
		c.Changes = append(c.Changes, *changes[name])
	}
	return c
}
