package diag

// example is what the catalogue says about a code that is in use.
type example struct{ detail, yaml string }

// examples are checked by tests: each policy gets its code. They are never changed.
var examples = map[Code]example{}
