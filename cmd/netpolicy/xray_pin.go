package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/trial"
)

// pinned is what a server showed.
type pinned struct {
	Server   string        `json:"server"`
	SNI      string        `json:"sni,omitempty"`
	Pin      string        `json:"pcs"` // SHA-256 of the first certificate, as the key pcs wants it
	Verified bool          `json:"verified"`
	Why      string        `json:"why,omitempty"` // it does not verify
	Chain    []certificate `json:"chain"`
	Link     string        `json:"link,omitempty"` // with the pin
}

type certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
}

func newXrayPinCmd() *cobra.Command {
	var output, sni string
	var write bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "pin HOST[:PORT]|LINK|-",
		Short: "Show a server's certificate and its pin",
		Long: `Pin connects to a server with TLS, takes whatever certificate it shows, and prints
the chain, whether this machine would trust it, and the SHA-256 of the first
certificate as the key pcs of links wants it. --write prints the link with that pin
(and without allowInsecure); it has the link's secrets.

Nobody vouches for what is shown: compare it with what the server's owner says, for
instance by another line. A pin that was taken while somebody stood in between lets
that one in for good. A certificate that is verified needs no pin.`,
		Example: `  netpolicy xray pin proxy.example --sni front.example
  netpolicy xray pin --write - <link.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			target, err := pinTarget(args[0], sni, write, cmd.InOrStdin())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			p, err := target.look(ctx)
			if errors.Is(ctx.Err(), context.Canceled) {
				return cli.Fail(cmd, ctx.Err())
			}
			if err != nil {
				return cli.Fail(cmd, fmt.Errorf("look at the certificate of %s: %s", target.server, oneLine(err.Error())))
			}
			switch out := cmd.OutOrStdout(); {
			case output == "json":
				enc := json.NewEncoder(out)
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				err = enc.Encode(p)
			case write:
				_, err = fmt.Fprintln(out, p.Link)
			default:
				err = writePinned(out, p)
			}
			if err != nil {
				return cli.Fail(cmd, fmt.Errorf("write the pin: %w", err))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&sni, "sni", "", "the `name` to ask for; the link's, or the host, unless given")
	cmd.Flags().BoolVar(&write, "write", false, "print the link with the pin")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long the server may take")
	return cmd
}

// target is whom to ask for a certificate.
type target struct {
	server, sni string
	alpn        []string
	profile     *link.Profile // nil without --write
}

func pinTarget(arg, sni string, write bool, stdin io.Reader) (t target, err error) {
	if arg != "-" && !strings.Contains(arg, "://") {
		if write {
			return t, errors.New("--write needs a link")
		}
		host, port, err := net.SplitHostPort(arg)
		if err != nil {
			host, port = strings.Trim(arg, "[]"), "443"
		}
		if host == "" || port == "" {
			return t, errors.New("want HOST, HOST:PORT or a link")
		}
		return target{server: net.JoinHostPort(host, port), sni: cmp.Or(sni, host)}, nil
	}
	s, err := readProfiles(arg, stdin)
	if err != nil {
		return t, err
	}
	list := s.Profiles()
	if len(list) != 1 {
		for _, e := range s.Entries {
			for _, f := range e.Findings {
				return t, errors.New(strings.TrimPrefix(oneLine(f.String()), "error: "))
			}
		}
		return t, errors.New("want one link")
	}
	p := list[0]
	if over := trial.OverUDP(p); over != "" {
		return t, fmt.Errorf("this server speaks %s, and only TLS over TCP can be asked: `openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE` at the server prints the pin", over)
	}
	if _, ok := p.Security.(link.Reality); ok {
		return t, errors.New("REALITY has no certificate to pin: its public key, pbk, is the pin")
	}
	name, alpn, ok := serverName(p)
	if !ok {
		return t, errors.New("this link has no TLS")
	}
	t = target{server: trial.Server(p), sni: cmp.Or(sni, name), alpn: alpn}
	if write {
		t.profile = &p
	}
	return t, nil
}

// look asks the server.
func (t target) look(ctx context.Context) (pinned, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.server)
	if err != nil {
		return pinned{}, err
	}
	defer conn.Close()
	// Verified below, so that a certificate that does not verify is seen too.
	c := tls.Client(conn, &tls.Config{ServerName: t.sni, NextProtos: t.alpn, InsecureSkipVerify: true})
	if err := c.HandshakeContext(ctx); err != nil {
		return pinned{}, err
	}
	chain := c.ConnectionState().PeerCertificates
	p := pinned{Server: t.server, SNI: t.sni, Chain: []certificate{}}
	between := x509.NewCertPool()
	for i, cert := range chain {
		sum := sha256.Sum256(cert.Raw)
		p.Chain = append(p.Chain, certificate{
			Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Names: namesOf(cert),
			NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), SHA256: hex.EncodeToString(sum[:]),
		})
		if i > 0 {
			between.AddCert(cert)
		}
	}
	p.Pin = p.Chain[0].SHA256
	if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: t.sni, Intermediates: between}); err != nil {
		p.Why = err.Error()
	}
	p.Verified = p.Why == ""
	if t.profile != nil {
		q := *t.profile
		s := q.Security.(link.TLS)
		s.Pins, s.AllowInsecure = []string{p.Pin}, link.Unset
		q.Security = s
		p.Link = q.Format()
		// Not every form can say it; one that is written as a URL can.
		again, _ := link.Parse(p.Link)
		if s, ok := again.Security.(link.TLS); !ok || len(s.Pins) == 0 {
			p.Link = q.Link()
		}
	}
	return p, nil
}

func namesOf(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func writePinned(w io.Writer, p pinned) error {
	var b strings.Builder
	row := func(name, text string) { fmt.Fprintf(&b, "%-10s %s\n", name, oneLine(text)) }
	row("server", p.Server)
	row("sni", p.SNI)
	for _, c := range p.Chain {
		b.WriteByte('\n')
		row("subject", c.Subject)
		row("issuer", c.Issuer)
		if len(c.Names) > 0 {
			row("names", strings.Join(c.Names, ", "))
		}
		row("valid", c.NotBefore.Format(time.DateOnly)+" to "+c.NotAfter.Format(time.DateOnly))
		row("sha256", c.SHA256)
	}
	b.WriteByte('\n')
	if p.Verified {
		row("verified", "yes, so that no pin is needed")
	} else {
		row("verified", "no: "+p.Why)
	}
	row("pcs", p.Pin)
	_, err := io.WriteString(w, b.String())
	return err
}
