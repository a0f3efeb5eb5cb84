package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// The number of a line starts at 1 and rises by one, as that of a game's console does.
func TestEveryViewerGetsEveryLineInOrder(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(routes())
	t.Cleanup(server.Close)
	viewers := make([]*websocket.Conn, 3)
	for i := range viewers {
		ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		t.Cleanup(func() { ws.Close() })
		viewers[i] = ws
	}
	before := time.Now()
	for _, text := range []string{"one", "two", "three"} {
		post(t, server.URL, `{"command":"`+text+`"}`, http.StatusNoContent)
	}
	for _, ws := range viewers {
		for i, want := range []string{"one", "two", "three"} {
			if l := read(t, ws); l.Text != want || l.Seq != int64(i+1) || l.Stream != wire.StreamOut || l.At.Before(before) {
				t.Errorf("line %d is %+v", i+1, l)
			}
		}
	}
}

func TestWhatIsNoLineIsRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(routes())
	t.Cleanup(server.Close)
	for name, body := range map[string]string{
		"something else than JSON": "hello",
		"a line beyond the bound":  `{"command":"` + strings.Repeat("x", maxLineBytes) + `"}`,
	} {
		t.Run(name, func(t *testing.T) { post(t, server.URL, body, http.StatusBadRequest) })
	}
}

func post(t *testing.T, url, body string, want int) {
	t.Helper()
	resp, err := http.Post(url+"/line", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Fatalf("%d, want %d", resp.StatusCode, want)
	}
}

func read(t *testing.T, ws *websocket.Conn) wire.ConsoleLine {
	t.Helper()
	var frame wire.ConsoleFrame
	if err := ws.ReadJSON(&frame); err != nil || len(frame.Lines) != 1 {
		t.Fatalf("%+v, %v", frame, err)
	}
	return frame.Lines[0]
}
