package servers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// Purpose of the intent tokens that open a console.
const purposeConsole = "console"

// Limits of one console socket.
const (
	consoleTokenTTL   = 60 * time.Second
	consoleWriteWait  = 10 * time.Second // for one frame to a viewer
	consolePongWait   = 60 * time.Second // of silence before a viewer counts as gone
	consolePing       = 25 * time.Second
	consoleInputBytes = 6*wire.MaxCommandBytes + 512 // a command of 4 KiB, every byte escaped
	consoleCutWait    = 300 * time.Millisecond       // for a viewer to be told why he is cut off
	commandsPerSecond = 10                           // of one person, in all consoles
	commandWait       = 15 * time.Second             // for a command to be in the game
	activityCommand   = 256                          // bytes of a command that the activity list shows
)

func (s *Servers) consoleToken(e *core.RequestEvent) error {
	a, row, err := s.allowed(e, "console.read")
	if err != nil {
		return err
	}
	token, expires, err := s.Access.Mint(a, purposeConsole, row.Id, row.Tenant(), consoleTokenTTL, false)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"token": token, "expires_at": expires})
}

// console proxies the WebSocket between a browser and the server's node. Whoever asks is known
// before the upgrade, by an intent token in the subprotocol: no cookie is looked at, so another site
// cannot open one.
func (s *Servers) console(e *core.RequestEvent) error {
	claims, a, row, err := s.viewer(e)
	if err != nil {
		return err
	}
	after, err := strconv.ParseInt("0"+e.Request.URL.Query().Get("after"), 10, 64)
	if err != nil {
		return access.BadRequest("after_invalid", "after is the number of the last line that you have.")
	}
	if !s.consoles.take(a.ID) {
		return access.Unavailable("too_many_consoles", "Too many consoles are open. Close one, or try again in a minute.")
	}
	defer s.consoles.leave(a.ID)
	seat, err := s.relays.join(e.Request.Context(), row.Node(), row.Id, after)
	if err != nil {
		return unopened(err)
	}
	defer seat.leave()
	up := websocket.Upgrader{Subprotocols: []string{access.Subprotocol}, CheckOrigin: func(*http.Request) bool { return true }}
	viewer, err := up.Upgrade(e.Response, e.Request, nil)
	if err != nil {
		return nil // Upgrade has answered
	}
	defer viewer.Close()
	p := &consoleProxy{s: s, app: e.App, actor: a, tenant: claims.Tenant, server: row.Id, node: row.Node(), viewer: viewer, seat: seat,
		gone: make(chan struct{}), check: make(chan struct{}, 1)}
	p.check <- struct{}{} // what changed while the node was dialled
	s.consoles.sit(p)
	defer s.consoles.rise(p)
	p.run()
	return nil
}

// unopened says why a node opened no console.
func unopened(err error) error {
	var refused *wire.Error
	switch {
	case errors.Is(err, fleet.ErrNodeOffline):
		return access.Unavailable("node_offline", "The server's node cannot be reached at the moment. The server itself may well be running.").Because(err)
	case errors.Is(err, fleet.ErrTooManyConsoles):
		return access.Unavailable("too_many_consoles", "Too many consoles are open on this server's node. Close one, or try again in a minute.").Because(err)
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return access.Conflict("console_not_there", "The server is not on its node yet, so it has no console. Try again in a moment.").Because(err)
	case errors.As(err, &refused) && refused.Status == http.StatusTooManyRequests:
		return errCrowded
	}
	return err
}

// viewer checks the token of a console request and that its holder may still read.
func (s *Servers) viewer(e *core.RequestEvent) (access.Claims, access.Actor, *collections.Server, error) {
	token, err := access.BearerOf(e.Request)
	if err != nil {
		return access.Claims{}, access.Actor{}, nil, err
	}
	id := e.Request.PathValue("id")
	a, claims, err := s.Access.Redeem(e, token, purposeConsole, id)
	if err != nil {
		return claims, a, nil, err
	}
	row, err := s.find(e.App, claims.Tenant, id)
	if err != nil {
		return claims, a, nil, err
	}
	return claims, a, row, s.Tenancy.Can(e.App, a, "console.read", tenancy.Resource{Tenant: claims.Tenant, Server: id})
}

// consoleProxy carries frames both ways. What the relay has goes to the viewer as the node wrote it;
// what a viewer types is checked, counted and audited first.
type consoleProxy struct {
	s                    *Servers
	app                  core.App
	actor                access.Actor
	tenant, server, node string
	viewer               *websocket.Conn
	seat                 *seat
	gone                 chan struct{} // closed when the viewer is
	check                chan struct{} // capacity 1: ask again
	over                 atomic.Bool   // it ends, whatever its viewer may

	mu sync.Mutex // guards writes to viewer
}

func (p *consoleProxy) run() {
	var wg sync.WaitGroup
	wg.Go(func() { p.up(); close(p.gone) })
	wg.Go(p.guard)
	p.down()
	p.viewer.Close() // ends up
	wg.Wait()
}

// down carries node → viewer, until either is gone.
func (p *consoleProxy) down() {
	ping := time.NewTicker(consolePing)
	defer ping.Stop()
	for {
		frame, over := p.seat.next()
		wake := p.seat.wake
		switch {
		case frame != nil:
			if p.say(websocket.TextMessage, frame) != nil {
				return
			}
			wake = always // look on, but for what else there is
		case over:
			_ = p.say(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "node away"))
			return
		}
		select {
		case <-p.gone:
			return
		case <-ping.C:
			if p.say(websocket.PingMessage, nil) != nil {
				return
			}
		case <-wake:
		}
	}
}

// always can be received from.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (p *consoleProxy) say(kind int, frame []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.viewer.SetWriteDeadline(time.Now().Add(consoleWriteWait))
	return p.viewer.WriteMessage(kind, frame)
}

// ask has the question come up again soon; it does not wait.
func (p *consoleProxy) ask() {
	select {
	case p.check <- struct{}{}:
	default: // it is about to
	}
}

// end cuts a viewer off soon; it does not wait.
func (p *consoleProxy) end() {
	p.over.Store(true)
	p.ask()
}

// guard cuts off a viewer whose right to read has ended. It waits for no write: a viewer that does not
// read holds one up for as long as he likes. Each ping's time it asks by itself, because another
// instance of the panel may have changed what he may.
func (p *consoleProxy) guard() {
	tick := time.NewTicker(consolePing)
	defer tick.Stop()
	var expired <-chan time.Time // nil: what he came by does not expire
	if k := p.actor.Key; k != nil && !k.Expires.IsZero() {
		end := time.NewTimer(time.Until(k.Expires))
		defer end.Stop()
		expired = end.C
	}
	for {
		select {
		case <-p.gone:
			return
		case <-tick.C:
		case <-expired:
		case <-p.check:
		}
		if !p.stillMay() {
			p.viewer.Close()
			return
		}
	}
}

// stillMay tells a viewer whose right to read has ended why he is cut off. A question that cannot be
// answered now changes nothing; it is asked again.
func (p *consoleProxy) stillMay() bool {
	err := p.actor.Still(p.app)
	if err == nil && p.over.Load() {
		err = access.Forbidden("tenant_changed", "The state of this organisation has changed.")
	}
	if err == nil {
		err = p.s.Tenancy.Can(p.app, p.actor, "console.read", tenancy.Resource{Tenant: p.tenant, Server: p.server})
	}
	var refused *access.Error
	if !errors.As(err, &refused) {
		return true
	}
	// The one kind of write that may be made beside another; it gives up when that one does not end.
	_ = p.viewer.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.ClosePolicyViolation, refused.Code), time.Now().Add(consoleCutWait))
	return false
}

// up carries viewer → node.
func (p *consoleProxy) up() {
	p.viewer.SetReadLimit(consoleInputBytes)
	alive := func(string) error { return p.viewer.SetReadDeadline(time.Now().Add(consolePongWait)) }
	p.viewer.SetPongHandler(alive)
	_ = alive("")
	for {
		_, frame, err := p.viewer.ReadMessage()
		if err != nil {
			return
		}
		_ = alive("")
		if !p.s.consoles.pace(p.actor.ID, time.Now()) {
			p.refuse("too_fast", "You are typing faster than the console takes it. Wait a second.")
			continue
		}
		p.command(frame)
	}
}

// command passes one line to the game if its sender may, and tells him when it was not delivered.
func (p *consoleProxy) command(frame []byte) {
	var in wire.ConsoleInput
	// A line end would be taken out on the node: what is written down has to be what is typed.
	if err := json.Unmarshal(frame, &in); err != nil || in.Command == "" || len(in.Command) > wire.MaxCommandBytes || strings.ContainsAny(in.Command, "\r\n\x00") {
		p.refuse("command_invalid", "That is no command: send one line of at most 4,096 bytes.")
		return
	}
	if p.actor.Still(p.app) != nil {
		p.ask()
		return
	}
	if err := p.s.Tenancy.Can(p.app, p.actor, "console.write", tenancy.Resource{Tenant: p.tenant, Server: p.server}); err != nil {
		p.refuse("forbidden", "You may read this console, but not type into it.")
		return
	}
	if err := p.witness(in.Command); err != nil {
		p.s.Log.Error("console command not recorded, so not sent", "server", p.server, "error", err)
		p.refuse("not_recorded", "The command could not be recorded, so it was not sent. Try again.")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	err := p.s.Nodes.Do(ctx, p.node, http.MethodPost, wire.APIPrefix+"/servers/"+p.server+"/command", wire.Command{Line: in.Command}, nil)
	var refused *wire.Error
	switch {
	case errors.As(err, &refused):
		p.refuse(refused.Code, refused.Message)
	case errors.Is(err, fleet.ErrNodeOffline):
		p.refuse("node_offline", "The server's node cannot be reached at the moment, so the command was not delivered.")
	case err != nil:
		p.s.Log.Warn("console command not delivered", "server", p.server, "error", err)
		p.refuse("not_delivered", "The node did not answer in time. Look whether the command arrived before you send it again.")
	}
}

// witness writes the audit row and event of a command before it is sent.
func (p *consoleProxy) witness(line string) error {
	held := []collections.Lock{audit.Lock(p.tenant)}
	return collections.Tx(p.app, held, func(tx core.App) error {
		row, err := p.s.find(tx, p.tenant, p.server)
		if err != nil {
			return err
		}
		err = p.s.Audit.Write(tx, p.actor.Audit(), audit.Entry{
			Tenant: p.tenant, Action: "console.command", ResourceType: collections.Servers, Resource: p.server,
			Metadata: map[string]any{"command": line},
		})
		if err != nil {
			return err
		}
		return p.s.emit(tx, row, "console.command", events.Event{Actor: p.actor.ID, ActorType: p.actor.Type, ActorName: p.actor.Name},
			map[string]any{"command": clip(line, activityCommand)})
	})
}

func (p *consoleProxy) refuse(code, message string) {
	frame, err := json.Marshal(wire.ConsoleFrame{Error: &wire.Problem{Code: code, Message: message}})
	if err == nil {
		_ = p.say(websocket.TextMessage, frame)
	}
}
