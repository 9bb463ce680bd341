package rules

import (
	"net/netip"
	"testing"
)

func pred(p Pred) Expr                     { return Expr{Op: OpPred, Pred: p} }
func node(op Op, kids ...Expr) Expr        { return Expr{Op: op, Kids: kids} }
func names(f Field, n ...NamePattern) Expr { return pred(Pred{Field: f, Names: n}) }

func prefixes(f Field, list ...string) Expr {
	p := Pred{Field: f}
	for _, s := range list {
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
	}
	return pred(p)
}

func TestSpecificity(t *testing.T) {
	zoom := NamePattern{Kind: Suffix, Name: "zoom.us"}
	tcp := pred(Pred{Field: FieldProto, Numbers: []uint32{6}})
	dscp := pred(Pred{Field: FieldDSCP, Numbers: []uint32{46}})
	ports := func(r ...PortRange) Expr { return pred(Pred{Field: FieldPort, Ports: r}) }
	for _, c := range []struct {
		name  string
		match Expr
		want  string
	}{
		{"any", Expr{}, "(0,0,0,0)"},
		{"set and proto", node(OpAnd, names(FieldSNI, zoom, NamePattern{Kind: Exact, Name: "zoom.com"}), tcp), "(2,3,0,0)"},
		{"prefix list is the minimum", prefixes(FieldDstIP, "10.0.0.0/8", "fc00::/7"), "(1,0,7,0)"},
		{"IPv4 + 96", prefixes(FieldDstIP, "10.0.0.0/8"), "(1,0,104,0)"},
		{"or", node(OpOr, dscp, ports(PortRange{5060, 5061})), "(1,0,0,0)"},
		{"two ports", ports(PortRange{22, 22}, PortRange{80, 80}), "(1,0,0,15)"},
		{"one port", ports(PortRange{22, 22}), "(1,0,0,16)"},
		{"three ports", ports(PortRange{1, 3}), "(1,0,0,15)"},
		{"all ports", ports(PortRange{0, 65535}), "(1,0,0,0)"},
		{"negated", node(OpNot, names(FieldSNI, zoom)), "(1,0,0,0)"},
		{"double negation", node(OpNot, node(OpNot, names(FieldSNI, zoom))), "(1,3,0,0)"},
		{"not or is and of nots", node(OpNot, node(OpOr, tcp, dscp)), "(2,0,0,0)"},
		{"not and is or of nots", node(OpNot, node(OpAnd, tcp, dscp)), "(1,0,0,0)"},
		{"nested and is flat", node(OpAnd, tcp, node(OpAnd, tcp, dscp)), "(2,0,0,0)"},
		{"fields are distinct", node(OpAnd, names(FieldSNI, zoom), names(FieldSNI, NamePattern{Kind: Exact, Name: "a"})), "(1,4,0,0)"},
		{"sni and domain differ", node(OpAnd, names(FieldSNI, zoom), names(FieldDomain, zoom)), "(2,3,0,0)"},
		{"or adds its minimum", node(OpAnd, tcp, node(OpOr, dscp, tcp)), "(2,0,0,0)"},
		{"or of one is no or", node(OpAnd, ports(PortRange{22, 22}), node(OpOr, ports(PortRange{22, 22}))), "(1,0,0,16)"},
		{"not and of one is no or", node(OpAnd, tcp, node(OpNot, node(OpAnd, tcp))), "(1,0,0,0)"},
		{"glob", names(FieldHTTPHost, NamePattern{Kind: GlobName, Name: "a-*.b"}), "(1,2,0,0)"},
		{"source ports do not count", pred(Pred{Field: FieldSrcPort, Ports: []PortRange{{1, 1}}}), "(1,0,0,0)"},
	} {
		r := Rule{Match: c.match}
		if got := r.Specificity().String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if a, b := (Specificity{2, 0, 0, 0}), (Specificity{1, 4, 128, 16}); a.Compare(b) != 1 || b.Compare(a) != -1 || a.Compare(a) != 0 {
		t.Error("fields come first")
	}
}
