package daemon

import (
	"encoding/json"
	"fmt"
	"strings"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
)

// flowJSON is the flow as language.md section 8 spells it.
func flowJSON(f *flow.Flow) json.RawMessage { return f.AppendJSON(nil) }

// parseFlow reads a flow from a JSON string, which has it in the text spelling or as an
// object, or from an object.
func parseFlow(raw json.RawMessage) (flow.Flow, error) {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return flow.ParseJSON(raw)
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return flow.ParseJSON([]byte(text))
	}
	return flow.ParseText(text)
}

// decisionJSON is the decision as language.md section 8 spells it.
func decisionJSON(p *engine.Program, id string, d *engine.Decision) json.RawMessage {
	return p.AppendDecision(nil, id, d)
}

// explainJSON is the explanation of how the flow would be decided now.
func explainJSON(l *live, f *flow.Flow) (json.RawMessage, error) {
	e := l.prog.Explain(f, l.world)
	out := l.prog.AppendExplanation(nil, f.ID, &e)
	if !json.Valid(out) {
		return nil, fmt.Errorf("explain %s: the explanation is not JSON", f.ID)
	}
	return out, nil
}
