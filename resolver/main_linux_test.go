package resolver

import (
	"testing"

	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
