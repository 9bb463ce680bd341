package generator

import (
	"encoding/json"
	"fmt"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// maxRequest bounds the JSON of a call: a text of 16 MiB, escaped.
const maxRequest = 40 << 20

// Call answers a function by its name, JSON in and JSON out: parse, edit, format,
// build, fields, begin and pin. What can't be answered, also where it is our own fault, is
// {"error":"…"}.
func Call(name string, request []byte) (reply []byte) {
	defer func() {
		if r := recover(); r != nil {
			reply = failed(fmt.Errorf("the generator has failed: %v", r))
		}
	}()
	if len(request) > maxRequest {
		return failed(fmt.Errorf("the request is larger than 40 MiB"))
	}
	switch name {
	case "parse":
		return answer(request, Parse)
	case "edit":
		return answer(request, Edit)
	case "format":
		return answer(request, Format)
	case "build":
		return answer(request, Build)
	case "fields":
		return answer(request, func(r FieldsRequest) ([]Input, error) { return Fields(r.Protocol, r.Transport, r.Security) })
	case "begin":
		return answer(request, Begin)
	case "pin":
		return answer(request, Pin)
	default:
		return failed(fmt.Errorf("%s: the functions are parse, edit, format, build, fields, begin and pin", diag.Quote(name)))
	}
}

// FieldsRequest is what Fields is asked.
type FieldsRequest struct {
	Protocol  string `json:"protocol"`
	Transport string `json:"transport"`
	Security  string `json:"security"`
}

func answer[In, Out any](request []byte, do func(In) (Out, error)) []byte {
	var in In
	d := json.NewDecoder(strings.NewReader(string(request)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		// The decoder's own words can repeat a piece of the request.
		return failed(fmt.Errorf("the request is not the JSON that this function takes"))
	}
	out, err := do(in)
	if err != nil {
		return failed(err)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return failed(err)
	}
	return data
}

func failed(err error) []byte {
	data, _ := json.Marshal(map[string]string{"error": err.Error()}) // strings can always be written
	return data
}
