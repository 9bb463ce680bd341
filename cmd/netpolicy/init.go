package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/rules/load"
)

func newInitCmd() *cobra.Command {
	var output, format string
	var force bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a first policy for this machine",
		Long: `Init looks at this machine's devices and default routes and writes a first
policy with comments: an uplink for every device that has a default route, the
networks that are directly connected, and rules to begin with. It only reads.`,
		Example: "  netpolicy init > policy.npl\n  netpolicy init -o /etc/netpolicy/policy.npl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "npl" && format != "yaml" {
				return fmt.Errorf("--to %s: the syntaxes are npl and yaml", format)
			}
			h, err := readHost()
			if err != nil {
				return cli.Fail(cmd, err)
			}
			text := []byte(firstPolicy(h))
			if format == "yaml" {
				if text, err = converted("first policy", text, "yaml"); err != nil {
					return cli.Fail(cmd, err)
				}
			}
			name := "policy." + format
			if r := load.Policy(name, text, load.Options{}); r.Policy == nil || diag.Count(r.Diags, diag.Warning) > 0 {
				if err := diag.Text(cmd.ErrOrStderr(), r.Diags, r.Sources...); err != nil {
					return err
				}
				return cli.Fail(cmd, fmt.Errorf("the policy for this machine is not clean: please report this"))
			}
			if output == "" {
				_, err := cmd.OutOrStdout().Write(text)
				return err
			}
			if _, err := os.Lstat(output); err == nil && !force {
				return cli.Fail(cmd, fmt.Errorf("%s exists; --force replaces it", output))
			}
			if err := durable.Rewrite(output, text, 0o644); err != nil {
				return cli.Fail(cmd, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this `FILE`")
	cmd.Flags().StringVar(&format, "to", "npl", "npl or yaml")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file")
	return cmd
}

// firstPolicy returns the policy, in NPL.
func firstPolicy(h *actions.Host) string {
	uplinks := uplinksOf(h)
	var b strings.Builder
	b.WriteString(`policy 1

# A first policy for this machine. Check it with "netpolicy lint", ask it with
# "netpolicy explain", and see what it would do with "netpolicyd --dry-run".

# What needs no uplink: the networks that are directly connected, and all private ones.
set local: cidr = {
`)
	for _, p := range localNetworks(h) {
		fmt.Fprintf(&b, "  %s,\n", p)
	}
	b.WriteString("}\n")
	if len(uplinks) == 0 {
		b.WriteString("\n# No default route was found. An uplink would be declared like this:\n# uplink wan { dev eth0; probe icmp 1.1.1.1, 9.9.9.9 every 1s }\n")
	}
	for i, u := range uplinks {
		fmt.Fprintf(&b, "\n# %s", u.dev)
		if i == 0 {
			b.WriteString(" has the best default route")
		}
		for _, g := range u.gateways {
			fmt.Fprintf(&b, ", gateway %s", g)
		}
		fmt.Fprintf(&b, "\nuplink %s { dev %s; probe icmp 1.1.1.1, 9.9.9.9 every 1s }\n", u.name, u.word)
	}
	if len(uplinks) > 1 {
		var names []string
		for _, u := range uplinks {
			names = append(names, u.name)
		}
		fmt.Fprintf(&b, "\n# The first that is usable.\ngroup any_uplink = fallback(%s)\n", strings.Join(names, ", "))
	}
	b.WriteString("\nroute direct via main\n")
	switch len(uplinks) {
	case 0:
		b.WriteString("default route direct\n")
	case 1:
		fmt.Fprintf(&b, "default route %s\n", uplinks[0].name)
	default:
		b.WriteString("default route any_uplink\n")
	}
	b.WriteString(`
# Local traffic stays local, whatever else is written.
rule local priority 1000 {
  match dst.ip in local
  do route direct
}

# An example: names of one provider, logged; "netpolicy tail" shows them.
rule watch_example priority 100 {
  match domain .example.com
  do log "example"
}

# What the policy says of itself: "netpolicy test" tries it.
assert "10.1.2.3" tcp/443 -> route direct
`)
	return b.String()
}

// found is an uplink that init proposes.
type found struct {
	name, dev, word string
	gateways        []string
}

// notWord is what a name can't have in a declaration.
var notWord = regexp.MustCompile(`[^A-Za-z0-9_-]`)

// uplinksOf returns a proposal for every device with a default route, the best first.
func uplinksOf(h *actions.Host) []found {
	const most = 8
	var list []found
	for _, d := range h.Defaults {
		i := slices.IndexFunc(list, func(f found) bool { return f.dev == d.Dev })
		if i < 0 {
			if len(list) == most {
				continue
			}
			name := notWord.ReplaceAllString(d.Dev, "_")
			if name[0] >= '0' && name[0] <= '9' || name[0] == '-' {
				name = "dev_" + name
			}
			if name == "direct" || slices.ContainsFunc(list, func(f found) bool { return f.name == name }) {
				name += fmt.Sprint("_", len(list)+1)
			}
			word := d.Dev
			if notWord.MatchString(strings.ReplaceAll(d.Dev, ".", "")) {
				word = `"` + d.Dev + `"`
			}
			list = append(list, found{name: name, dev: d.Dev, word: word})
			i = len(list) - 1
		}
		if d.Gateway.IsValid() {
			list[i].gateways = append(list[i].gateways, d.Gateway.String())
		}
	}
	return list
}

// localNetworks are the private networks, and what is connected and not among them.
func localNetworks(h *actions.Host) []string {
	list := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"}
	const most = 32
	for _, c := range h.Connected {
		a := c.Prefix.Addr()
		if a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsMulticast() || c.Prefix.Bits() == 0 || len(list) == most {
			continue
		}
		if text := c.Prefix.Masked().String(); !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	return list
}
