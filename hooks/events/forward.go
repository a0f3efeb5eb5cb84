package events

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/cluster"
)

// A browser's realtime connection is held by one instance, and what it asks about it may reach another:
// load balancers need not be sticky. The id of a connection begins with the id of its instance.
const (
	realtimePath = "/api/realtime"
	redirectPath = "/api/oauth2-redirect"
	instanceLen  = 15       // characters of an instance's id
	maxForwarded = 64 << 10 // bytes of a body; a list of topics is far smaller

	// clientHeader tells the other instance whose address the request came from. It is read from other
	// instances only.
	clientHeader = "X-Mamba-Client-Address"
)

// peers is how requests get to other instances.
type peers struct {
	mu    sync.Mutex
	peer  cluster.Peer // nil: there are none
	local http.Handler // this instance's own; nil until it serves
}

// SetPeers says how requests reach other instances, and who answers theirs here. p may be nil.
func (o *Outbox) SetPeers(p cluster.Peer, local http.Handler) {
	o.peers.mu.Lock()
	defer o.peers.mu.Unlock()
	o.peers.peer, o.peers.local = p, local
}

// Forward is middleware: a request about a connection that another instance holds is answered by that
// one. If it is dead, PocketBase answers here that it does not know the connection.
func (o *Outbox) Forward(e *core.RequestEvent) error {
	path := e.Request.URL.Path
	ours := path == realtimePath && e.Request.Method == http.MethodPost || path == redirectPath
	o.peers.mu.Lock()
	peer := o.peers.peer
	o.peers.mu.Unlock()
	if !ours || peer == nil || e.Request.Context().Value(carried{}) != nil {
		return e.Next()
	}
	body, err := io.ReadAll(io.LimitReader(e.Request.Body, maxForwarded+1))
	if err != nil {
		return e.BadRequestError("", err)
	}
	rest := e.Request.Body
	e.Request.Body = restored{io.MultiReader(bytes.NewReader(body), rest), rest}
	owner := ownerOf(connectionOf(e.Request, body))
	if owner == "" || owner == o.cluster.ID() || len(body) > maxForwarded {
		return e.Next()
	}
	if o.carry(e, peer.RoundTripper(owner), body) {
		return nil
	}
	e.Request.Body = io.NopCloser(bytes.NewReader(body))
	return e.Next()
}

// restored is a body that was read in part.
type restored struct {
	io.Reader
	io.Closer
}

// connectionOf is the id of the connection that a request is about, empty when it names none.
func connectionOf(r *http.Request, body []byte) string {
	if r.Method != http.MethodPost {
		return r.URL.Query().Get("state")
	}
	key := "clientId"
	if r.URL.Path == redirectPath {
		key = "state"
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, _ := url.ParseQuery(string(body)) // what is no form names nothing
		return form.Get(key)
	}
	var fields map[string]json.RawMessage
	var id string
	if json.Unmarshal(body, &fields) != nil || json.Unmarshal(fields[key], &id) != nil {
		return ""
	}
	return id
}

// ownerOf is the instance that holds a connection; empty for an id that is none of ours.
func ownerOf(connection string) string {
	if len(connection) <= instanceLen || strings.Trim(connection[:instanceLen], core.DefaultIdAlphabet) != "" {
		return ""
	}
	return connection[:instanceLen]
}

// carry has the request answered by another instance; false when it cannot be reached.
func (o *Outbox) carry(e *core.RequestEvent, to http.RoundTripper, body []byte) bool {
	reached := true
	proxy := httputil.ReverseProxy{
		Transport: to,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "peer" // the transport knows where
			r.Out.Header.Set(clientHeader, r.In.RemoteAddr)
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
				if v, ok := r.In.Header[name]; ok { // what a trusted proxy said in front of this instance
					r.Out.Header[name] = v
				}
			}
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			o.log.Warn("a request is not answered by the instance that holds the connection", "error", err)
			reached = false
		},
	}
	r := e.Request.Clone(e.Request.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	proxy.ServeHTTP(e.Response, r)
	return reached
}

// carried marks a request that has come from another instance: it goes no further.
type carried struct{}

// ServePeer answers what other instances forward, and nothing else: whoever calls it has to know that
// the request comes from one.
func (o *Outbox) ServePeer(w http.ResponseWriter, r *http.Request) {
	o.peers.mu.Lock()
	local := o.peers.local
	o.peers.mu.Unlock()
	if local == nil || r.URL.Path != realtimePath && r.URL.Path != redirectPath || r.Method == http.MethodGet && r.URL.Path == realtimePath {
		http.NotFound(w, r)
		return
	}
	r = r.Clone(context.WithValue(r.Context(), carried{}, true))
	r.RemoteAddr = r.Header.Get(clientHeader)
	r.Header.Del(clientHeader)
	local.ServeHTTP(w, r)
}
