package sim

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTimedErrors(t *testing.T) {
	for text, want := range map[string]string{
		"start 2026-11-31 20:00":                             "NP213",
		"start 2026-11-27 20:00 Europe/Nowhere":              "NP213",
		"start 2026-11-27 20:00\nstart 2026-11-27 21:00":     "NP105",
		"start 2026-11-27":                                   "NP003",
		"carry 1s 3G tcp ? > ?":                              "NP203",
		"carry 1s 9223372036854775807GiB tcp ? > ?":          "NP203",
		"carry 3GiB tcp ? > ?":                               "NP203",
		"carry 1s 3GiB":                                      "NP003",
		"carry 1s 3GiB tcp ? > ? sny=x":                      "NP004",
		"expect 1s schedule night yes":                       "NP004",
		"expect 1s condition":                                "NP003",
		"start 2026-11-27 20:00\nexpect 1s quota daily left": "",
	} {
		_, diags := Parse("x.sim", []byte("policy x.yaml\n"+text+"\n"))
		got := ""
		for _, d := range diags {
			got += string(d.Code)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0B": 0, "7B": 7, "3GiB": 3 << 30, "1024KiB": 1 << 20, "2TiB": 2 << 40} {
		if got, ok := size(text); got != want || !ok {
			t.Errorf("%s: %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "B", "7", "-1B", "1.5MiB", "4194305TiB"} {
		if got, ok := size(text); ok {
			t.Errorf("%s: %d", text, got)
		}
	}
}
