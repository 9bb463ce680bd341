package diag

// maxFindings is how many diagnostics of one severity a run keeps. It bounds the
// memory that a broken file of megabytes can take; nobody reads so many.
const maxFindings = 10_000

// Collector gathers the diagnostics of one run, at most 10,000 of each severity.
// The zero Collector is empty.
type Collector struct {
	list   []Diagnostic
	counts [Error + 1]int
	spare  Diagnostic // takes what is over the bound
}

// Report adds a diagnostic (see New) and returns it for help and notes; the
// pointer is good until the next Report.
func (c *Collector) Report(code Code, span Span, format string, args ...any) *Diagnostic {
	d := New(code, span, format, args...)
	if c.counts[d.Severity]++; c.counts[d.Severity] > maxFindings {
		c.spare = d
		return &c.spare
	}
	c.list = append(c.list, d)
	return &c.list[len(c.list)-1]
}

// List returns what was gathered, in the order of the reports. It is shared with the collector.
func (c *Collector) List() []Diagnostic { return c.list }

// Len returns how many reports there were; it only grows.
func (c *Collector) Len() int { return c.counts[Hint] + c.counts[Warning] + c.counts[Error] }

// Note adds another place to a diagnostic.
func (d *Diagnostic) Note(span Span, message string) {
	d.Notes = append(d.Notes, Note{Span: span, Message: message})
}
