// Command barews is the least that a console can be: lines that are posted to it go to every WebSocket
// that is open. `make bench` measures the panel's console against it. It owns no state but the open
// sockets, checks nobody, and never becomes part of a release.
//
// Its one invariant: a viewer gets the lines in the order in which they were posted, or is cut.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the fan-out.
const (
	viewerQueue  = 256 // frames waiting for one viewer; one more and it is cut
	writeWait    = 10 * time.Second
	maxLineBytes = 64 << 10
)

// hub is the open sockets.
type hub struct {
	mu      sync.Mutex
	seq     int64
	viewers map[chan []byte]bool
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: barews HOST:PORT")
		os.Exit(2)
	}
	server := &http.Server{Addr: os.Args[1], Handler: routes(), ReadHeaderTimeout: writeWait}
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "barews:", err)
		os.Exit(1)
	}
}

func routes() http.Handler {
	h := &hub{viewers: map[chan []byte]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /ws", h.watch)
	mux.HandleFunc("POST /line", h.line)
	return mux
}

// line stamps what was posted, as the engine stamps a game's line, and hands it to every viewer.
func (h *hub) line(w http.ResponseWriter, r *http.Request) {
	var in wire.ConsoleInput
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLineBytes)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	frame, err := json.Marshal(wire.ConsoleFrame{Lines: []wire.ConsoleLine{{Seq: h.seq, At: time.Now().UTC(), Stream: wire.StreamOut, Text: in.Command}}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for queue := range h.viewers {
		select {
		case queue <- frame:
		default:
			delete(h.viewers, queue)
			close(queue)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *hub) watch(w http.ResponseWriter, r *http.Request) {
	queue := make(chan []byte, viewerQueue)
	h.mu.Lock()
	h.viewers[queue] = true // before the handshake, so that who is through with it misses no line
	h.mu.Unlock()
	defer h.leave(queue)
	up := websocket.Upgrader{}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer conn.Close()
	var reader sync.WaitGroup
	reader.Go(func() { // ends when either side closes
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				h.leave(queue)
				return
			}
		}
	})
	for frame := range queue {
		_ = conn.SetWriteDeadline(time.Now().Add(writeWait))
		if conn.WriteMessage(websocket.TextMessage, frame) != nil {
			break
		}
	}
	conn.Close()
	reader.Wait()
}

func (h *hub) leave(queue chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.viewers[queue] {
		delete(h.viewers, queue)
		close(queue)
	}
}
