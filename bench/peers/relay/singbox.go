package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	box "github.com/sagernet/sing-box"
	"github.com/sagernet/sing-box/adapter/certificate"
	"github.com/sagernet/sing-box/adapter/endpoint"
	"github.com/sagernet/sing-box/adapter/inbound"
	"github.com/sagernet/sing-box/adapter/outbound"
	boxservice "github.com/sagernet/sing-box/adapter/service"
	"github.com/sagernet/sing-box/dns"
	"github.com/sagernet/sing-box/dns/transport/local"
	"github.com/sagernet/sing-box/option"
	"github.com/sagernet/sing-box/protocol/direct"
	"github.com/sagernet/sing-box/protocol/socks"
	"github.com/sagernet/sing/common/json"
)

// singBox is sing-box with a SOCKS inbound and a direct outbound, without
// sniffing, rules and logs.
func singBox(ctx context.Context, at func(netip.AddrPort)) error {
	in, out, resolvers := inbound.NewRegistry(), outbound.NewRegistry(), dns.NewTransportRegistry()
	socks.RegisterInbound(in)
	direct.RegisterOutbound(out)
	local.RegisterTransport(resolvers)
	ctx = box.Context(ctx, in, out, endpoint.NewRegistry(), resolvers, boxservice.NewRegistry(), certificate.NewRegistry())
	addr, err := freePort()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`{"log":{"disabled":true},"inbounds":[{"type":"socks","tag":"in","listen":"127.0.0.1","listen_port":%d}],"outbounds":[{"type":"direct","tag":"out"}]}`, addr.Port())
	opt, err := json.UnmarshalExtendedContext[option.Options](ctx, []byte(text))
	if err != nil {
		return err
	}
	b, err := box.New(box.Options{Context: ctx, Options: opt})
	if err != nil {
		return err
	}
	if err := b.Start(); err != nil {
		return err
	}
	defer b.Close()
	for { // it says nothing of when it listens
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(time.Millisecond)
	}
	at(addr)
	<-ctx.Done()
	return nil
}
