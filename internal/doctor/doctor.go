// Package doctor looks at a machine before a policy is enforced on it, and says
// of each thing it finds what it means, what netpolicy does about it and what the
// user can do. Look gathers Facts (Linux, read only), Diagnose turns them into
// findings and is pure: the same facts give the same findings in the same order.
//
//	facts := doctor.Look(ctx, doctor.Options{StateDir: "/var/lib/netpolicy"})
//	report := doctor.Diagnose(&facts, doctor.WantOf(policy))
//	report.Text(os.Stdout)
//
// What could not be looked at is a finding, too: a report without errors never
// means that somebody looked away.
package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity uint8

// The severities. OK, the zero value, is something looked at and found in order;
// an error keeps netpolicy from doing what the policy says.
const (
	OK Severity = iota
	Info
	Warning
	Error
)

var severityNames = [...]string{OK: "ok", Info: "info", Warning: "warning", Error: "error"}

// String returns the severity as the report spells it.
func (s Severity) String() string { return severityNames[s] }

// MarshalText spells the severity for JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severityNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("severity %q: want ok, info, warning or error", b)
	}
	*s = Severity(i)
	return nil
}

// Finding is one thing that was looked at.
type Finding struct {
	ID       string   `json:"id"` // stable, described in docs/doctor.md
	Area     Area     `json:"area"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"` // what there is
	// Details are the places, such as rules; at most maxDetails and how many more.
	Details []string `json:"details,omitempty"`
	// The rest is empty for OK.
	Means     string `json:"means,omitempty"`
	Netpolicy string `json:"netpolicy,omitempty"` // what netpolicy does about it
	Help      string `json:"help,omitempty"`      // what the user can do
}

// Report is what Diagnose found, the worst first.
type Report struct {
	Version  int       `json:"version"` // of this object: 1
	Kernel   string    `json:"kernel"`
	User     uint32    `json:"uid"`
	Policy   string    `json:"policy,omitempty"` // its file; "" for none: defaults were assumed
	Counts   Counts    `json:"counts"`
	Findings []Finding `json:"findings"`
}

// Counts are the findings by severity.
type Counts struct {
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	Infos    int `json:"infos"`
	OK       int `json:"ok"`
}

// maxDetails bounds the places that a finding lists: Kubernetes alone marks
// packets in thousands of rules.
const maxDetails = 6

// report gathers findings.
type report struct {
	want *Want
	list []Finding
}

// add reports a finding of the catalogue. An id that the catalogue lacks is a bug
// that TestCatalogue finds.
func (r *report) add(id string, s Severity, details []string, format string, args ...any) {
	e := lookup(id)
	f := Finding{ID: id, Area: e.Area, Severity: s, Message: fmt.Sprintf(format, args...)}
	if s != OK {
		f.Means, f.Netpolicy, f.Help = e.Means, e.Netpolicy, e.Help
	}
	if more := len(details) - maxDetails; more > 0 {
		details = append(slices.Clone(details[:maxDetails]), fmt.Sprintf("and %d more", more))
	}
	f.Details = details
	r.list = append(r.list, f)
}

// Diagnose says what the facts mean for what is wanted.
func Diagnose(f *Facts, w Want) Report {
	r := &report{want: &w}
	r.privileges(f)
	r.unknown(f)
	r.kernel(f)
	r.conflicts(f)
	r.sysctls(f)
	r.managers(f)
	r.policy(f)
	// Equal severities stay in the order of the checks.
	slices.SortStableFunc(r.list, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	out := Report{Version: 1, Kernel: f.Kernel, User: f.User.UID, Policy: w.File, Findings: r.list}
	for i := range r.list {
		switch r.list[i].Severity {
		case Error:
			out.Counts.Errors++
		case Warning:
			out.Counts.Warnings++
		case Info:
			out.Counts.Infos++
		default:
			out.Counts.OK++
		}
	}
	return out
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Text writes the report for a person: what is wrong with all that is known of
// it, then what is in order in a line each.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, uid %d, ", r.Kernel, r.User)
	if r.Policy == "" {
		b.WriteString("no policy: the defaults are assumed\n")
	} else {
		fmt.Fprintf(&b, "policy %s\n", r.Policy)
	}
	last := Error
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity != OK || last != OK {
			b.WriteByte('\n')
		}
		last = f.Severity
		fmt.Fprintf(&b, "%s %s: %s\n", f.Severity, f.ID, f.Message)
		for _, d := range f.Details {
			fmt.Fprintf(&b, "    %s\n", d)
		}
		for _, part := range []struct{ head, text string }{
			{"means", f.Means}, {"netpolicy", f.Netpolicy}, {"you can", f.Help},
		} {
			if part.text != "" {
				wrap(&b, fmt.Sprintf("  %-11s", part.head+":"), part.text)
			}
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d for your information, %d in order\n",
		plural(r.Counts.Errors, "error"), plural(r.Counts.Warnings, "warning"), r.Counts.Infos, r.Counts.OK)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// width is where lines of text are broken.
const width = 110

// wrap writes a text behind its head, and under it what does not fit.
func wrap(b *strings.Builder, head, text string) {
	b.WriteString(head)
	column := len(head)
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b.WriteString("\n" + strings.Repeat(" ", len(head)))
			column = len(head)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}
