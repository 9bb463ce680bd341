package sub

import (
	"encoding/base64"
	"testing"

	"netpolicy.dev/netpolicy/internal/alloctest"
)

func FuzzLinks(f *testing.F)    { fuzz(f, Links) }
func FuzzSIP008(f *testing.F)   { fuzz(f, SIP008) }
func FuzzClash(f *testing.F)    { fuzz(f, Clash) }
func FuzzSingBox(f *testing.F)  { fuzz(f, SingBox) }
func FuzzXrayJSON(f *testing.F) { fuzz(f, XrayJSON) }
func FuzzWGQuick(f *testing.F)  { fuzz(f, WGQuick) }

// FuzzBase64 puts base64 around what it makes.
func FuzzBase64(f *testing.F) {
	f.Add([]byte(files[Links]))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkWrite(t, []byte(base64.StdEncoding.EncodeToString(data)))
	})
}

func fuzz(f *testing.F, format Format) {
	f.Add([]byte(files[format]))
	f.Fuzz(checkWrite)
}

// maxPerByte and maxFixed bound what reading takes of memory, in bytes.
const (
	maxPerByte = 2 << 10
	maxFixed   = 1 << 20
)

// checkWrite: reading takes memory in proportion to the file; whatever is read can be written in every format and read again.
func checkWrite(t *testing.T, data []byte) {
	var s Subscription
	var err error
	alloctest.Check(t, len(data), maxFixed, maxPerByte, func() { s, err = Parse(data) })
	if err != nil {
		return
	}
	profiles := s.Profiles()
	for _, format := range []Format{Links, SIP008, Clash, SingBox} {
		out, losses := Write(format, profiles)
		left := 0
		for _, l := range losses {
			if l.Left {
				left++
			}
		}
		if len(profiles) == left {
			continue
		}
		again, err := Parse(out)
		if err != nil || len(again.Profiles()) != len(profiles)-left {
			t.Fatalf("%s: %d profiles, %d left out: %v\n%s", format, len(profiles), left, err, out)
		}
	}
}
