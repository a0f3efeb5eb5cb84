package servers

import (
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// seats bound what is open at once at this instance of the panel, in all and of one person, and how fast one person types into all
// of it: each line costs an audit row.
type seats struct {
	most, each int // immutable
	all        sync.WaitGroup

	mu    sync.Mutex
	shut  bool                       // nobody sits down any more; guarded by mu
	taken int                        // guarded by mu
	of    map[string]*sitter         // by person; guarded by mu
	open  map[*consoleProxy]struct{} // guarded by mu
}

// sitter is what one person has.
type sitter struct {
	taken, typed int
	since        time.Time // typed is counted from here
}

func newSeats(most, each int) *seats {
	return &seats{most: most, each: each, of: map[string]*sitter{}, open: map[*consoleProxy]struct{}{}}
}

// take returns false when there is no seat for the person; leave gives one back.
func (s *seats) take(person string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.of[person]
	if s.shut || s.taken >= s.most || mine != nil && mine.taken >= s.each {
		return false
	}
	if mine == nil {
		mine = &sitter{}
		s.of[person] = mine
	}
	s.taken++
	mine.taken++
	s.all.Add(1)
	return true
}

func (s *seats) leave(person string) {
	defer s.all.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if mine := s.of[person]; mine.taken > 1 {
		mine.taken--
		return
	}
	delete(s.of, person)
}

// pace reports whether a person who has a seat may type one more line now.
func (s *seats) pace(person string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.of[person]
	if mine == nil {
		return false
	}
	if now.Sub(mine.since) >= time.Second {
		mine.since, mine.typed = now, 0
	}
	mine.typed++
	return mine.typed <= commandsPerSecond
}

// sit and rise say which consoles are open.
func (s *seats) sit(p *consoleProxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[p] = struct{}{}
	if s.shut {
		p.viewer.Close()
	}
}

func (s *seats) rise(p *consoleProxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, p)
}

// close ends every open console and waits until nobody is left, or about to sit down.
func (s *seats) close() {
	s.mu.Lock()
	s.shut = true
	by := time.Now().Add(consoleCutWait) // for all of them: some may not read
	for p := range s.open {
		_ = p.viewer.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseServiceRestart, "panel stops"), by)
		p.viewer.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// Stop ends the consoles, which outlive their requests; their viewers come back to whoever answers then.
func (s *Servers) Stop() {
	s.cancel()
	s.consoles.close()
}

// Recheck has every open console ask again whether its viewer still may read it. Call it after a
// commit that changes accounts or rights; it does not wait.
func (s *Servers) Recheck() {
	s.consoles.mu.Lock()
	defer s.consoles.mu.Unlock()
	for p := range s.consoles.open {
		p.ask()
	}
}
