package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// asClients is the environment's key of a process of clients; its value is a crowd as JSON.
const asClients = "NETPOLICY_TEST_CLIENTS"

// crowd is what a process of clients is. Each does what the web interface does while its page Connections is
// looked at (web/src/lib): one stream of events, all connections at first and each minute, and
// every two seconds the busiest by rate and by bytes.
type crowd struct {
	URL, Token string
	Count      int
	Asleep     bool // they open their streams and do no more
}

// counts are what the clients of a crowd have got so far. Events are those of connections, Lost are the events that they were told to have
// missed, Refused the lists that they were told to ask for later.
type counts struct{ Bytes, Events, Lost, Lists, Refused int64 }

const (
	clientCounters = 2 * time.Second
	clientList     = time.Minute
)

// beClients is the crowd that the environment asks for: it says "ready" once every client has its list and its
// stream, its counts for each line that it reads, and ends with its input.
func beClients() bool {
	text := os.Getenv(asClients)
	if text == "" {
		return false
	}
	var c crowd
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	var got total
	ready := make(chan error, c.Count)
	for i := range c.Count {
		go c.client(&got, time.Duration(i)*clientCounters/time.Duration(c.Count), ready)
	}
	for range c.Count {
		if err := <-ready; err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		line, _ := json.Marshal(counts{got.bytes.Load(), got.events.Load(), got.lost.Load(), got.lists.Load(), got.refused.Load()})
		fmt.Printf("%s\n", line)
	}
	return true
}

// total is what all clients of a process have got.
type total struct{ bytes, events, lost, lists, refused atomic.Int64 }

// countedConn counts what is read.
type countedConn struct {
	net.Conn
	into *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.into.Add(int64(n))
	return n, err
}

// client is one client; its first look at the busiest is phase later than that of others, as people are.
func (c *crowd) client(got *total, phase time.Duration, ready chan<- error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && c.Asleep { // what it never reads fills little
			err = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return countedConn{conn, &got.bytes}, err
	}}
	get := func(path string) (*http.Response, error) {
		r, err := http.NewRequest(http.MethodGet, c.URL+"/api/v1/"+path, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+c.Token)
		return (&http.Client{Transport: transport}).Do(r)
	}
	// list asks for a page of connections and returns how many it has, -1 where it has to be asked for again.
	list := func(query string) (int, error) {
		resp, err := get("connections?" + query)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		var page struct{ Flows []json.RawMessage }
		switch b, err := io.ReadAll(resp.Body); {
		case err != nil:
			return 0, err
		case resp.StatusCode == http.StatusServiceUnavailable:
			got.refused.Add(1)
			return -1, nil
		case resp.StatusCode != http.StatusOK:
			return 0, fmt.Errorf("%s: %s", resp.Status, b)
		default:
			got.lists.Add(1)
			return len(page.Flows), json.Unmarshal(b, &page)
		}
	}
	all := func() (err error) {
		for n, at := 1000, 0; err == nil && (n == 1000 || n < 0); {
			if n, err = list(fmt.Sprintf("sort=age&limit=1000&offset=%d", at)); n > 0 {
				at += n
			}
		}
		return err
	}
	stream, err := get("events?topics=decisions,ended,transitions,changes,status")
	if err == nil && stream.StatusCode != http.StatusOK {
		err = fmt.Errorf("events: %s", stream.Status)
	}
	if err != nil || c.Asleep {
		ready <- err
		return
	}
	go got.follow(stream.Body)
	if err := all(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	time.Sleep(phase)
	busiest, again := time.NewTicker(clientCounters), time.NewTicker(clientList)
	for err == nil {
		select {
		case <-busiest.C:
			if _, err = list("sort=rate&limit=200"); err == nil {
				_, err = list("sort=bytes&limit=200")
			}
		case <-again.C:
			err = all()
		}
	}
	fmt.Fprintln(os.Stderr, "client:", err)
	os.Exit(1)
}

// follow counts the events of a stream.
func (t *total) follow(stream io.Reader) {
	in := bufio.NewReaderSize(stream, 64<<10)
	for lost := false; ; {
		line, err := in.ReadSlice('\n')
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
		switch text := string(line[:min(len(line), 64)]); {
		case strings.HasPrefix(text, "event: "):
			lost = text == "event: lost\n"
			if text == "event: decisions\n" || text == "event: ended\n" {
				t.events.Add(1)
			}
		case lost && strings.HasPrefix(text, "data: "):
			var l struct{ Lost int64 }
			if json.Unmarshal(line[len("data: "):], &l) == nil {
				t.lost.Add(l.Lost)
			}
		}
	}
}
