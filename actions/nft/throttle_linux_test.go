package nft

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// TestThrottleInstructions compares the instructions of throttles with nft's.
func TestThrottleInstructions(t *testing.T) {
	need(t, "nft")
	ours, theirs := nstest.New(t), nstest.New(t)
	theirs.Run(t, `table inet netpolicy {
	map h4 { type ipv4_addr : classid; size 4095; flags dynamic,timeout; timeout 60s; }
	map h6 { type ipv6_addr : classid; size 4095; flags dynamic,timeout; timeout 60s; }
	set l4 { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 60s; }
	set lc { typeof ct id; size 65535; flags dynamic,timeout; timeout 60s; }
	chain c {
		meta priority set meta priority | 0x10
		meta priority set numgen inc mod 15 offset 16
		meta priority set jhash ct id mod 15 seed 0x6e657470 offset 16
		add @h4 { ct original ip saddr : meta priority }
		add @h6 { ct original ip6 saddr : meta priority }
		add @h4 { ip saddr : meta priority }
		limit rate over 125000 bytes/second return
		limit rate over 125000 bytes/second burst 2000 bytes return
		update @l4 { ct original ip saddr limit rate over 125000 bytes/second } return
		update @lc { ct id limit rate over 125000 bytes/second burst 2000 bytes } return
	}
}`, "nft", "-f", "-")
	a := open(t, ours, Options{})
	e := &encoder{table: actions.TableName}
	e.begin()
	e.newTable(0)
	must(t, e.chain(&actions.Chain{Name: "c"}, 0))
	for _, s := range []struct {
		name string
		t    setType
	}{
		{"h4", setType{key: ipv4Type, isMap: true, ranks: true, size: 4095, ttl: time.Minute}},
		{"h6", setType{key: ipv6Type, isMap: true, ranks: true, size: 4095, ttl: time.Minute}},
		{"l4", setType{key: ipv4Type, size: 65535, ttl: time.Minute}},
		{"lc", setType{key: ctIDType, typeof: expressions["ct id"], size: 65535, ttl: time.Minute}},
	} {
		e.newSet(s.name, &s.t, 0, 0, origin{})
	}
	src4 := key{datatype: ipv4Type, load: func(e *encoder, reg uint32) { e.ctSource(false, reg) }}
	src6 := key{datatype: ipv6Type, load: func(e *encoder, reg uint32) { e.ctSource(true, reg) }}
	id := key{datatype: ctIDType, load: func(e *encoder, reg uint32) { e.ct(unix.NFT_CT_ID, reg) }}
	from, err := keyOf(actions.KeySrc, false)
	must(t, err)
	for _, f := range []func(){
		func() { e.orRank(0x10) },
		func() { e.nextRank(15, 16) },
		func() { e.hashRank(15, 16) },
		func() { e.addRank(&src4, "h4") },
		func() { e.addRank(&src6, "h6") },
		func() { e.addRank(&from, "h4") },
		func() { e.police(nil, "", 125000, 0); e.verdictInstr(verdictReturn, "") },
		func() { e.police(nil, "", 125000, 2000); e.verdictInstr(verdictReturn, "") },
		func() { e.police(&src4, "l4", 125000, 0); e.verdictInstr(verdictReturn, "") },
		func() { e.police(&id, "lc", 125000, 2000); e.verdictInstr(verdictReturn, "") },
	} {
		e.family = 0
		e.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, origin{})
		e.text(unix.NFTA_RULE_TABLE, e.table)
		e.text(unix.NFTA_RULE_CHAIN, "c")
		at := e.nest(unix.NFTA_RULE_EXPRESSIONS)
		f()
		e.done(at)
	}
	must(t, a.commit(e))
	if diff := gocmp.Diff(list(t, theirs), list(t, ours)); diff != "" {
		t.Errorf("listed (-nft +ours):\n%s", diff)
	}
	if diff := gocmp.Diff(instructions(t, theirs), instructions(t, ours)); diff != "" {
		t.Errorf("instructions (-nft +ours):\n%s", diff)
	}
}

func TestQueue(t *testing.T) {
	for text, ok := range map[string]bool{
		"queue num 11700": true, "queue num 11700-11701 bypass": true, "queue num 7-7": true,
		"queue": false, "queue num x": false, "queue num 8-7": false, "queue num 1 fanout": false, "queue num 70000": false,
	} {
		e := &encoder{}
		if err := e.queue(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}
