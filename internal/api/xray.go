package api

import (
	"time"
)

// Xray is what runs for the routes via xray. It has no secrets.
type Xray struct {
	State   string    `json:"state"` // stopped, running, waiting, degraded, failed
	Since   time.Time `json:"since,omitzero"`
	Version string    `json:"version,omitempty"`
	PID     int       `json:"pid,omitempty"`
	// Adopted: an earlier run of the daemon started it.
	Adopted       bool      `json:"adopted,omitempty"`
	StoppedByUser bool      `json:"stopped_by_user,omitempty"`
	Restarts      int       `json:"restarts"`
	Reason        string    `json:"reason,omitempty"` // why it does not run
	Next          time.Time `json:"next,omitzero"`    // when it is started again
	Memory        int64     `json:"memory,omitempty"` // bytes
	CPUms         int64     `json:"cpu_ms,omitempty"`
	// Problems are what of the policy's routes is not carried out, and why.
	Problems []string    `json:"problems,omitempty"`
	Routes   []XrayRoute `json:"routes"`
}

// XrayRoute is one route via xray.
type XrayRoute struct {
	Route   string      `json:"route"`
	Proxy   string      `json:"proxy"`            // the name in the policy
	Listen  string      `json:"listen,omitempty"` // its SOCKS server
	Proxies []XrayProxy `json:"proxies"`
}

// XrayProxy is one proxy that a route can use.
type XrayProxy struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Used    bool   `json:"used"`
	Chosen  bool   `json:"chosen,omitempty"` // by the user
	Alive   string `json:"alive"`            // true, false or unknown
	DelayMS int64  `json:"delay_ms,omitempty"`
}

// XrayRequest asks for something to be done with Xray: start, stop or restart.
type XrayRequest struct {
	Do string `json:"do"`
}
