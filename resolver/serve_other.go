//go:build !linux

package resolver

import (
	"errors"
	"net"
)

const controlLen = 64

// wantDestination refuses: answers could come from another address than was asked.
func wantDestination(*net.UDPConn, bool) error {
	return errors.New("listening on every address needs Linux: name the addresses")
}

func answerFrom([]byte) []byte { return nil }

func transientErrno(error) bool { return false }
