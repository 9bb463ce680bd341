package daemon

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestParseFlow: a flow is an object, or a string with the text or the object in it, and
// what is wrong with it is told with its place.
func TestParseFlow(t *testing.T) {
	const want = `{"proto":"tcp","src":"10.0.0.5:5000","dst":"203.0.113.7:443"}`
	for _, text := range []string{
		`tcp 10.0.0.5:5000 > 203.0.113.7:443`,
		want,
		"\n{\"proto\": \"tcp\",\n \"src\": \"10.0.0.5:5000\", \"dst\": \"203.0.113.7:443\"}\n",
	} {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseFlow(quoted)
		if got := string(flowJSON(&f)); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if f, err := parseFlow(json.RawMessage(want)); err != nil || string(flowJSON(&f)) != want {
		t.Errorf("the object: %s, %v", flowJSON(&f), err)
	}
	for text, want := range map[string]string{
		`"{\"proto\": \"tcp\" \"src\": 1}"`:                                            `at byte 16: expected , or }`,
		`"tcp 10.0.0.5 > 203.0.113.7 sni=a..b"`:                                        `at byte 31: sni: "a..b": empty label`,
		`"tcp 10.0.0.5 > 203.0.113.7 domain=` + strings.Repeat("a", 300) + `.example"`: `at byte 34: domain: "aaaaa`,
		`"tcp 10.0.0.5 203.0.113.7"`:                                                   `at byte 13: expected > between the two ends`,
	} {
		if _, err := parseFlow(json.RawMessage(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
