package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Subscriptions are lists of profiles that providers publish. Its methods are called
// concurrently, and end early when their context does.
type Subscriptions interface {
	// Subscriptions lists them by name, or with name the one, with its profiles.
	Subscriptions(name string) ([]Subscription, error)
	// ChangeSubscription carries the request out and returns the subscription as it is
	// then; of one that was removed the name alone.
	ChangeSubscription(context.Context, SubscriptionRequest) (Subscription, error)
}

// What a SubscriptionRequest asks for.
const (
	DoAdd    = "add"
	DoUpdate = "update"
	DoRemove = "remove"
	DoChoose = "choose"
)

// SubscriptionRequest asks for something to be done with a subscription.
type SubscriptionRequest struct {
	Do   string `json:"do"`
	Name string `json:"name"`
	// Profile is the id or the name of the one to choose; "" takes the choice back.
	Profile string `json:"profile,omitempty"`

	// The rest is for DoAdd.
	URL       string   `json:"url,omitempty"`
	Every     string   `json:"every,omitempty"` // 12h; "" is what the provider says
	Via       string   `json:"via,omitempty"`
	UserAgent string   `json:"user_agent,omitempty"`
	Keep      string   `json:"keep,omitempty"`
	Drop      string   `json:"drop,omitempty"`
	Protocols []string `json:"protocols,omitempty"`
	Rename    []string `json:"rename,omitempty"` // RE=TEMPLATE
}

// Subscription is one as it is now. It has no secrets.
type Subscription struct {
	Name      string   `json:"name"`
	URL       string   `json:"url,omitempty"`   // to the host; the rest is ***
	Every     float64  `json:"every,omitempty"` // seconds
	Via       string   `json:"via,omitempty"`
	UserAgent string   `json:"user_agent,omitempty"`
	Keep      string   `json:"keep,omitempty"`
	Drop      string   `json:"drop,omitempty"`
	Protocols []string `json:"protocols,omitempty"`
	Rename    []string `json:"rename,omitempty"`

	Format   string   `json:"format,omitempty"`
	Usable   int      `json:"usable"`            // profiles
	Filtered int      `json:"filtered"`          // by keep, drop and protocols
	Refused  int      `json:"refused"`           // entries that can't be read
	Reasons  []string `json:"reasons,omitempty"` // of the first of those
	// Chosen is the user's choice; Lost says that it is not there at the moment.
	Chosen  *SubscribedProfile `json:"chosen,omitempty"`
	Lost    bool               `json:"lost,omitempty"`
	Fetched time.Time          `json:"fetched,omitzero"`
	Checked time.Time          `json:"checked,omitzero"`
	Next    time.Time          `json:"next,omitzero"`
	Problem string             `json:"problem,omitempty"` // why the last try failed
	Used    int64              `json:"used,omitempty"`    // bytes of the account
	Total   int64              `json:"total,omitempty"`
	Expires time.Time          `json:"expires,omitzero"`

	Profiles []SubscribedProfile `json:"profiles,omitempty"`
}

// SubscribedProfile is a profile of a subscription, without its secrets.
type SubscribedProfile struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Protocol  string `json:"protocol"`
	Server    string `json:"server"` // host and port
	Transport string `json:"transport,omitempty"`
	Security  string `json:"security,omitempty"`
	Chosen    bool   `json:"chosen,omitempty"`
}

// errNoSubscriptions is the answer of a daemon that keeps none.
var errNoSubscriptions = fmt.Errorf("the daemon keeps no subscriptions: it has no state directory, or only observes: %w", ErrConflict)

// subscriptions adds the routes of Subscriptions.
func (s *Server) subscriptions(r *router) {
	list := func(w http.ResponseWriter, name string) ([]Subscription, bool) {
		err := errNoSubscriptions
		var all []Subscription
		if s.Subscriptions != nil {
			all, err = s.Subscriptions.Subscriptions(name)
		}
		if err != nil {
			problem(w, statusOf(err), err)
		}
		return all, err == nil
	}
	r.HandleFunc("GET /api/v1/subscriptions", func(w http.ResponseWriter, _ *http.Request) {
		if all, ok := list(w, ""); ok {
			answer(w, http.StatusOK, append([]Subscription{}, all...))
		}
	})
	r.HandleFunc("GET /api/v1/subscriptions/{name}", func(w http.ResponseWriter, req *http.Request) {
		if all, ok := list(w, req.PathValue("name")); ok {
			answer(w, http.StatusOK, all[0])
		}
	})
	r.HandleFunc("POST /api/v1/subscriptions", func(w http.ResponseWriter, req *http.Request) {
		var q SubscriptionRequest
		if !body(w, req, &q) {
			return
		}
		if s.Subscriptions == nil {
			problem(w, statusOf(errNoSubscriptions), errNoSubscriptions)
			return
		}
		out, err := s.Subscriptions.ChangeSubscription(req.Context(), q)
		if err != nil {
			problem(w, statusOf(err), err)
			return
		}
		answer(w, http.StatusOK, out)
	})
}

// Subscriptions lists all subscriptions, without their profiles.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	var all []Subscription
	return all, c.call(ctx, http.MethodGet, "/api/v1/subscriptions", nil, &all)
}

// Subscription returns one with its profiles.
func (c *Client) Subscription(ctx context.Context, name string) (Subscription, error) {
	if name == "" {
		return Subscription{}, errors.New("a subscription has a name")
	}
	var s Subscription
	return s, c.call(ctx, http.MethodGet, "/api/v1/subscriptions/"+url.PathEscape(name), nil, &s)
}

// ChangeSubscription adds, updates, removes one, or chooses a profile of it.
func (c *Client) ChangeSubscription(ctx context.Context, q SubscriptionRequest) (Subscription, error) {
	var s Subscription
	return s, c.call(ctx, http.MethodPost, "/api/v1/subscriptions", q, &s)
}
