package print

import (
	"os"
	"testing"
	"fmt"

	"netpolicy.dev/netpolicy/rules/yaml"
)

func TestTry(t *testing.T) {
	f := os.Getenv("TRY")
	if f == "" { t.Skip() }
	src, _ := os.ReadFile(f)
	a, d := yaml.Parse(f, src)
	for _, x := range d { fmt.Println(x.Code, x.Message) }
	fmt.Println(string(NPL(a)))
	a, _ = yaml.Parse(f, src)
	out := YAML(a)
	fmt.Println(string(out))
	a, d = yaml.Parse(f, out)
	for _, x := range d { fmt.Println(x.Code, x.Message) }
	if got := YAML(a); string(got) != string(out) { t.Errorf("not idempotent:\n%s", got) }
}
