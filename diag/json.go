package diag

import (
	"encoding/json"
	"fmt"
	"io"
)

// The JSON form. Lines and columns are 1-based, columns count characters;
// offsets are bytes. The end is the first place behind the token.
type jsonReport struct {
	Diagnostics []jsonDiagnostic `json:"diagnostics"`
	Errors      int              `json:"errors"`
	Warnings    int              `json:"warnings"`
	Hints       int              `json:"hints"`
}

type jsonDiagnostic struct {
	Code     Code       `json:"code"`
	Severity string     `json:"severity"`
	Message  string     `json:"message"`
	Place    *jsonPlace `json:"place,omitempty"`
	Help     string     `json:"help,omitempty"`
	Notes    []jsonNote `json:"notes,omitempty"`
}

type jsonNote struct {
	Message string     `json:"message"`
	Place   *jsonPlace `json:"place,omitempty"`
}

type jsonPlace struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	EndLine   int    `json:"end_line"`
	EndColumn int    `json:"end_column"`
	Offset    int    `json:"offset"`
	Length    int    `json:"length"`
}

// JSON writes all diagnostics, in the order given, as one JSON object with the
// counts of each severity.
func JSON(w io.Writer, list []Diagnostic, sources ...*Source) error {
	byName := sourceMap(sources)
	report := jsonReport{
		Diagnostics: make([]jsonDiagnostic, 0, len(list)),
		Errors:      Count(list, Error), Warnings: Count(list, Warning), Hints: Count(list, Hint),
	}
	for _, d := range list {
		j := jsonDiagnostic{Code: d.Code, Severity: d.Severity.String(), Message: d.Message, Help: d.Help, Place: place(byName, d.Span)}
		for _, n := range d.Notes {
			j.Notes = append(j.Notes, jsonNote{Message: n.Message, Place: place(byName, n.Span)})
		}
		report.Diagnostics = append(report.Diagnostics, j)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

func place(sources map[string]*Source, span Span) *jsonPlace {
	if span.File == "" {
		return nil
	}
	p := &jsonPlace{File: span.File, Offset: span.Start, Length: span.End - span.Start}
	if s := sources[span.File]; s != nil {
		p.Line, p.Column = s.Position(span.Start)
		p.EndLine, p.EndColumn = s.Position(span.End)
	}
	return p
}
