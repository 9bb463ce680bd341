package diag

import (
	"encoding/json"
	"fmt"
	"io"
)

// The parts of SARIF 2.1.0 (OASIS, section 3) that diagnostics need.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               Code      `json:"id"`
		ShortDescription sarifText `json:"shortDescription"`
		FullDescription  sarifText `json:"fullDescription"`
		Default          struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
	}
	sarifResult struct {
		RuleID    Code            `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
		Related   []sarifLocation `json:"relatedLocations,omitempty"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifLocation struct {
		ID       int           `json:"id,omitempty"`
		Message  *sarifText    `json:"message,omitempty"`
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region *sarifRegion `json:"region,omitempty"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
		EndLine     int `json:"endLine"`
		EndColumn   int `json:"endColumn"`
		ByteOffset  int `json:"byteOffset"`
		ByteLength  int `json:"byteLength"`
	}
)

// SARIF writes all diagnostics, in the order given, as one SARIF 2.1.0 log with one
// run. Hints are of level note. Columns count Unicode code points.
func SARIF(w io.Writer, list []Diagnostic, sources ...*Source) error {
	byName := sourceMap(sources)
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "netpolicy", Rules: []sarifRule{}}
	index := map[Code]int{}
	for _, d := range list {
		if _, ok := index[d.Code]; !ok {
			e, _ := Lookup(d.Code)
			index[d.Code] = len(run.Tool.Driver.Rules)
			rule := sarifRule{ID: d.Code, ShortDescription: sarifText{e.Title}, FullDescription: sarifText{e.Title}}
			if e.Detail != "" {
				rule.FullDescription.Text = e.Detail
			}
			rule.Default.Level = sarifLevel(e.Severity)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		}
		r := sarifResult{RuleID: d.Code, RuleIndex: index[d.Code], Level: sarifLevel(d.Severity), Message: sarifText{d.Message}}
		if d.Help != "" {
			r.Message.Text += "\n" + d.Help
		}
		if d.Span.File != "" {
			r.Locations = append(r.Locations, sarifLocation{Physical: physical(byName, d.Span)})
		}
		for i, n := range d.Notes {
			r.Related = append(r.Related, sarifLocation{ID: i + 1, Message: &sarifText{n.Message}, Physical: physical(byName, n.Span)})
		}
		run.Results = append(run.Results, r)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	log := sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
	if err := enc.Encode(log); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

func sarifLevel(s Severity) string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	default:
		return "note"
	}
}

func physical(sources map[string]*Source, span Span) sarifPhysical {
	var p sarifPhysical
	p.Artifact.URI = uri(span.File)
	if at := place(sources, span); at != nil && at.Line > 0 {
		p.Region = &sarifRegion{at.Line, at.Column, at.EndLine, at.EndColumn, at.Offset, at.Length}
	}
	return p
}

// uri spells a path as the reference that SARIF asks for: RFC 3986, section 2.1.
func uri(path string) string {
	const hexDigits = "0123456789ABCDEF"
	var b []byte
	for i := range len(path) {
		switch c := path[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~', c == '/':
			b = append(b, c)
		case c == '\\':
			b = append(b, '/')
		default:
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(b)
}
