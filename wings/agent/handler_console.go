package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// getConsole serves one viewer: this goroutine writes, one reads what is typed, one fetches frames.
func (a *Agent) getConsole(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if raw := r.URL.Query().Get("after"); raw != "" && (err != nil || after < 0) {
		fail(w, http.StatusBadRequest, "bad_request", "after is the number of the last line that was seen.")
		return
	}
	id := r.PathValue("id")
	viewer, err := a.Watch(id, after)
	if err != nil {
		failWith(w, err)
		return
	}
	defer viewer.Close()
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	a.mu.Lock()
	program := a.ctx
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(program) // the request's own ends with the hijack
	s := &consoleSession{a: a, id: id, conn: conn, cancel: cancel,
		refused: make(chan wire.ConsoleFrame, consoleErrors), frames: make(chan wire.ConsoleFrame)}
	var wg sync.WaitGroup
	wg.Go(func() { s.read(ctx) })
	wg.Go(func() { s.fetch(ctx, viewer) })
	s.write(ctx)
	cancel()
	_ = conn.Close() // ends the reader
	wg.Wait()
}

// consoleSession is one viewer's connection.
type consoleSession struct {
	a       *Agent
	id      string
	conn    *websocket.Conn
	cancel  context.CancelFunc
	refused chan wire.ConsoleFrame // what was typed and not delivered; a full one makes the reader wait
	frames  chan wire.ConsoleFrame // unbuffered: the ring is the queue
}

func (s *consoleSession) fetch(ctx context.Context, v *Viewer) {
	defer s.cancel()
	for {
		f, err := v.Next(ctx)
		if err != nil {
			return
		}
		select {
		case s.frames <- f:
		case <-ctx.Done():
			return
		}
	}
}

func (s *consoleSession) read(ctx context.Context) {
	defer s.cancel()
	s.conn.SetReadLimit(consoleReadLimit)
	alive := func(string) error { return s.conn.SetReadDeadline(time.Now().Add(consolePong)) }
	s.conn.SetPongHandler(alive)
	for alive("") == nil {
		_, raw, err := s.conn.ReadMessage()
		if err != nil {
			return
		}
		var in wire.ConsoleInput
		if json.Unmarshal(raw, &in) != nil {
			return // not our protocol
		}
		err = s.a.Command(ctx, s.id, in.Command)
		if err == nil {
			continue
		}
		e := errorOf(err)
		select {
		case s.refused <- wire.ConsoleFrame{Error: &wire.Problem{Code: e.Code, Message: e.Message}}:
		case <-ctx.Done():
			return
		}
	}
}

func (s *consoleSession) write(ctx context.Context) {
	ping := time.NewTicker(consolePing)
	defer ping.Stop()
	for {
		var err error
		select {
		case f := <-s.frames:
			err = s.send(f)
		case f := <-s.refused:
			err = s.send(f)
		case <-ping.C:
			err = s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(consoleWriteWait))
		case <-ctx.Done():
			_ = s.conn.WriteControl(websocket.CloseMessage,
				websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(consoleWriteWait))
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *consoleSession) send(f wire.ConsoleFrame) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(consoleWriteWait)); err != nil {
		return err
	}
	return s.conn.WriteJSON(f)
}
