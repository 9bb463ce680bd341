package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	qr "github.com/piglig/go-qr"
	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

const (
	// longestQR is how many bytes the largest code takes at correction level M
	// (ISO/IEC 18004, version 40).
	longestQR = 2331
	// qrQuiet is the light border that the standard asks for, in modules.
	qrQuiet = 4
)

func newXrayQRCmd() *cobra.Command {
	var png, svg string
	cmd := &cobra.Command{
		Use:   "qr LINK|-",
		Short: "Show a share link as a QR code",
		Long: `QR prints the code of a link for a dark terminal, or writes it to a file. The link
must be one that parse takes; it is encoded as it is, and so holds its secrets.
A link in the command line is seen by everybody on the machine; "-" reads it from
standard input.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := args[0]
			if text == "-" {
				data, err := readInput(text, cmd.InOrStdin(), sub.MaxBytes, "the link")
				if err != nil {
					return cli.Fail(cmd, err)
				}
				text = string(data)
			}
			code, err := encodeQR(strings.TrimSpace(text))
			if err == nil {
				err = writeQR(cmd.OutOrStdout(), code, png, svg)
			}
			if err != nil {
				return cli.Fail(cmd, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&png, "png", "", "write a PNG file; a new one is readable by its owner only")
	cmd.Flags().StringVar(&svg, "svg", "", "write an SVG file; a new one is readable by its owner only")
	return cmd
}

// encodeQR makes the code of a link that can be used.
func encodeQR(text string) (*qr.QrCode, error) {
	_, findings := link.Parse(text)
	for _, f := range findings {
		if f.Severity == diag.Error {
			return nil, errors.New(strings.TrimPrefix(oneLine(f.String()), "error: ")) // the caller says that
		}
	}
	if len(text) > longestQR {
		return nil, fmt.Errorf("the link has %d bytes and no QR code takes more than %d: put it into a subscription and share that", len(text), longestQR)
	}
	code, err := qr.EncodeBinary([]byte(text), qr.Medium)
	if err != nil {
		return nil, fmt.Errorf("make the QR code: %w", err)
	}
	return code, nil
}

func writeQR(w io.Writer, code *qr.QrCode, png, svg string) error {
	config := qr.NewQrCodeImgConfig(8, qrQuiet)
	if png != "" {
		data, err := code.ToPNGBytes(config)
		if err == nil {
			err = durable.Rewrite(png, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("write the PNG: %w", err)
		}
	}
	if svg != "" {
		data, err := code.ToSVGBytes(config)
		if err == nil {
			err = durable.Rewrite(svg, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("write the SVG: %w", err)
		}
	}
	if png != "" || svg != "" {
		return nil
	}
	if _, err := io.WriteString(w, qrText(code)); err != nil {
		return fmt.Errorf("write the QR code: %w", err)
	}
	return nil
}

// qrText draws two rows of modules on a line; light modules are drawn.
func qrText(code *qr.QrCode) string {
	size := code.Size()
	light := func(x, y int) bool {
		return x < 0 || y < 0 || x >= size || y >= size || !code.Module(x, y)
	}
	var b strings.Builder
	for y := -qrQuiet; y < size+qrQuiet; y += 2 {
		for x := -qrQuiet; x < size+qrQuiet; x++ {
			switch {
			case light(x, y) && light(x, y+1):
				b.WriteString("█")
			case light(x, y):
				b.WriteString("▀")
			case light(x, y+1):
				b.WriteString("▄")
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
