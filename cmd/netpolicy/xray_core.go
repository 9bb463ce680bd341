package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
	"netpolicy.dev/netpolicy/xray/trial"
)

// coreFlags say which Xray is run.
type coreFlags struct {
	binary string
	rules  string // the version whose rules hold; "" asks the program
}

func (f *coreFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.binary, "xray", "", "the `program`; the xray of PATH unless given")
	cmd.Flags().StringVar(&f.rules, "core", "", "the version of Xray, 26.3 or 26.7; asked of the program unless given")
}

// core returns the path of the program and the version whose rules hold for it.
func (f *coreFlags) core(ctx context.Context) (binary string, v config.Version, err error) {
	binary = f.binary
	if binary == "" {
		if binary, err = exec.LookPath("xray"); err != nil {
			return "", 0, errors.New("there is no xray in PATH; --xray names the program")
		}
	}
	text := f.rules
	if text == "" {
		if text, err = process.Version(ctx, binary); err != nil {
			return "", 0, err
		}
	}
	if v, err = trial.Rules(text); err != nil {
		return "", 0, fmt.Errorf("%s; --core says which of them to take", oneLine(err.Error()))
	}
	return binary, v, nil
}

// gather reads all profiles that the arguments name. What can't be read is written
// to errs.
func gather(args []string, stdin io.Reader, errs io.Writer) (all []link.Profile, err error) {
	for _, arg := range args {
		s, err := readProfiles(arg, stdin)
		if err != nil {
			return nil, err
		}
		writeFindings(errs, refusals(s), false)
		all = append(all, s.Profiles()...)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no profile that can be used")
	}
	return all, nil
}

// serverName returns the name that a profile's TLS asks for, and what it offers;
// false where it has no TLS.
func serverName(p link.Profile) (name string, alpn []string, ok bool) {
	switch s := p.Security.(type) {
	case link.TLS:
		name, alpn = s.ServerName, s.ALPN
	case link.Reality:
		name = s.ServerName
	default:
		return "", nil, false
	}
	if name == "" {
		name = hostOf(p.Transport)
	}
	if name == "" {
		name = p.Host
	}
	return name, alpn, true
}

// hostOf returns the host of a transport over HTTP.
func hostOf(t link.Transport) string {
	switch t := t.(type) {
	case link.WebSocket:
		return t.Host
	case link.HTTPUpgrade:
		return t.Host
	case link.XHTTP:
		return t.Host
	}
	return ""
}
