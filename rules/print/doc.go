// Package print writes policies as text, in NPL and in YAML, with their comments.
// It is what `netpolicy fmt` and `netpolicy convert` use.
//
//	ast, diags := npl.Parse("policy.npl", src)
//	out := print.YAML(ast)
//
// The declarations keep their order, and groups of them stay apart by one empty
// line; in YAML the sections have the order of the schema. No comment is lost: one
// on a line of its own stays before what follows it, and one at the end of a line at
// the end of that line, where the syntax can hold it there; else it goes before
// the clause. What is printed reads as the same policy ([Canonical]), and prints as
// the same text again.
//
// A file is printed in three steps. Every comment is given to the smallest part of
// the policy that it stands at (notes.go, units.go); comments of parts that have no
// line of their own in the output move to what is around them (settle.go); and a
// printer for each syntax writes the parts with theirs.
package print
