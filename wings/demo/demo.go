// Package demo is the game that comes with wings: a chat server over TCP with a console, so that a
// fresh installation can show everything it does without a registry and without a download.
//
// It owns the two hidden commands of the static binary, demo-server and demo-install. It refuses to
// be clever: one protocol (lines), one config file (demo.properties), one folder (the one it runs in).
//
// Its one invariant: what players said before "Saved" was printed is on the disk.
package demo

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Names of the hidden commands, as blueprints/games/demo calls them.
const (
	ServerCommand  = "demo-server"
	InstallCommand = "demo-install"
)

// Defaults and bounds of the game.
const (
	DefaultPort    = 7777
	DefaultMOTD    = "Welcome to the demo world"
	defaultClients = 10
	maxLineBytes   = 512
	clientQueue    = 64               // lines waiting for one player; one who does not read them is let go
	idleLimit      = 10 * time.Minute // a player who says nothing for longer is let go
	writeLimit     = 10 * time.Second // for one line to one player
	maxChatBytes   = 1 << 20          // of chat.log; then it becomes chat.log.1
	maxFlood       = 100_000          // lines of one flood command
	crashCode      = 3
	configName     = "demo.properties"
	chatName       = "chat.log"
	worldName      = "world.txt"
)

// ExitError says which code the process shall end with.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// ExitCode is what a process whose command returned err ends with: 0 for nil, the code of an
// ExitError, else 1.
func ExitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return 1
}

// world is the running game. Its loop goroutine owns everything; players and console send to it.
type world struct {
	out     io.Writer
	dir     string
	motd    string
	slots   int
	chat    *os.File
	written int64
	events  chan func() error // run by loop, in order; a full one makes the sender wait
	done    chan struct{}     // closed when the loop ended
	players map[*player]bool
	serial  int
}

type player struct {
	name  string
	conn  net.Conn
	lines chan string // to be written; closed by the loop when the player is let go
}

// Run plays until ctx ends, SIGTERM or SIGINT arrives, or the console says stop (nil), crash (an
// ExitError with code 3) or something breaks. Flags: --port (default $PORT, else 7777; 0 for any),
// --host (default all of the container's), --dir (default the working folder), and --never-ready
// (default $DEMO_NEVER_READY), which leaves the ready line out so that a start that times out can be shown.
//
// Console: say TEXT, list, kick NAME, save, flood N, crash, stop, help.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	port := DefaultPort
	if p, err := strconv.Atoi(os.Getenv("PORT")); err == nil {
		port = p
	}
	flags := flag.NewFlagSet(ServerCommand, flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.IntVar(&port, "port", port, "TCP port")
	host := flags.String("host", "", "address to listen on")
	dir := flags.String("dir", ".", "folder of the world")
	never := flags.Bool("never-ready", os.Getenv("DEMO_NEVER_READY") == "1", "never say that the server is ready")
	if err := flags.Parse(args); err != nil {
		return &ExitError{Code: 2}
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	w := &world{out: stdout, dir: *dir, motd: DefaultMOTD, slots: defaultClients,
		events: make(chan func() error), done: make(chan struct{}), players: map[*player]bool{}}
	if err := w.open(); err != nil {
		return err
	}
	defer w.chat.Close()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(*host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.accept(listener, &wg) })
	go w.console(stdin) // a read of the terminal cannot be broken off: it ends with the process, or with stdin
	w.printf("Message of the day: %s", w.motd)
	if !*never {
		w.printf("Ready: listening on port %d", listener.Addr().(*net.TCPAddr).Port)
	}
	err = w.loop(ctx)
	close(w.done)
	_ = listener.Close()
	for p := range w.players {
		w.letGo(p, "The server stops. Goodbye.")
	}
	wg.Wait()
	return err
}

var errStop = errors.New("stop")

func (w *world) loop(ctx context.Context) error {
	for {
		select {
		case f := <-w.events:
			err := f()
			if errors.Is(err, errStop) {
				return w.end()
			}
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return w.end()
		}
	}
}

func (w *world) end() error {
	w.printf("Stopping")
	if err := w.save(); err != nil {
		return err
	}
	w.printf("Goodbye")
	return nil
}

// send hands f to the loop. false: the game is over.
func (w *world) send(f func() error) bool {
	select {
	case w.events <- f:
		return true
	case <-w.done:
		return false
	}
}

func (w *world) printf(format string, args ...any) { fmt.Fprintf(w.out, format+"\n", args...) }

// open reads the config and opens the chat log.
func (w *world) open() error {
	raw, err := os.ReadFile(filepath.Join(w.dir, configName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read %s: %w", configName, err)
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		switch strings.TrimSpace(key) {
		case "motd":
			w.motd = strings.TrimSpace(value)
		case "max-clients":
			if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && n > 0 {
				w.slots = n
			}
		}
	}
	w.chat, err = os.OpenFile(filepath.Join(w.dir, chatName), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", chatName, err)
	}
	info, err := w.chat.Stat()
	if err != nil {
		return fmt.Errorf("look at %s: %w", chatName, err)
	}
	w.written = info.Size()
	return nil
}

func (w *world) accept(l net.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		p := &player{conn: conn, lines: make(chan string, clientQueue)}
		wg.Go(p.write)
		if !w.send(func() error { return w.join(p) }) {
			close(p.lines)
			return
		}
		wg.Go(func() { w.listen(p) })
	}
}

// write is the player's own goroutine: one who reads slowly slows nobody.
func (p *player) write() {
	defer p.conn.Close()
	for line := range p.lines {
		if p.conn.SetWriteDeadline(time.Now().Add(writeLimit)) != nil {
			continue
		}
		if _, err := io.WriteString(p.conn, line+"\n"); err != nil {
			_ = p.conn.Close() // listen notices; the rest is thrown away
		}
	}
}

func (w *world) listen(p *player) {
	scan := bufio.NewScanner(p.conn)
	scan.Buffer(make([]byte, 0, maxLineBytes), maxLineBytes)
	for p.conn.SetReadDeadline(time.Now().Add(idleLimit)) == nil && scan.Scan() {
		text := strings.TrimSpace(strings.ToValidUTF8(scan.Text(), "?"))
		if text == "" {
			continue
		}
		if !w.send(func() error { return w.hear(p, text) }) {
			return
		}
	}
	w.send(func() error { w.leave(p); return nil })
}

func (w *world) join(p *player) error {
	if len(w.players) >= w.slots {
		p.lines <- "The server is full. Come back later."
		close(p.lines)
		return nil
	}
	w.serial++
	p.name = fmt.Sprintf("player%d", w.serial)
	w.players[p] = true
	w.tell(p, w.motd)
	w.tell(p, "You are "+p.name+". Type to talk; /name, /list and /quit are understood.")
	return w.broadcast(p.name + " joined")
}

// leave forgets a player who went by himself.
func (w *world) leave(p *player) {
	if !w.players[p] {
		return
	}
	delete(w.players, p)
	close(p.lines)
	_ = w.broadcast(p.name + " left")
}

// letGo says one last thing to a player and closes the connection behind it.
func (w *world) letGo(p *player, why string) {
	if !w.players[p] {
		return
	}
	delete(w.players, p)
	select {
	case p.lines <- why:
	default: // does not read anyway
	}
	close(p.lines)
}

func (w *world) tell(p *player, line string) {
	if !w.players[p] {
		return
	}
	select {
	case p.lines <- line:
	default:
		w.letGo(p, "")
	}
}

// broadcast shows a line to everybody and on the console, and writes it down.
func (w *world) broadcast(line string) error {
	w.printf("%s", line)
	for p := range w.players {
		w.tell(p, line)
	}
	n, err := fmt.Fprintln(w.chat, line)
	if err != nil {
		return fmt.Errorf("write %s: %w", chatName, err)
	}
	if w.written += int64(n); w.written <= maxChatBytes {
		return nil
	}
	return w.turn()
}

// turn begins a new chat.log and keeps the last one.
func (w *world) turn() error {
	path := filepath.Join(w.dir, chatName)
	if err := errors.Join(w.chat.Sync(), w.chat.Close(), os.Rename(path, path+".1")); err != nil {
		return fmt.Errorf("turn %s: %w", chatName, err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("turn %s: %w", chatName, err)
	}
	w.chat, w.written = f, 0
	return nil
}

func (w *world) hear(p *player, text string) error {
	if !w.players[p] {
		return nil
	}
	command, rest, _ := strings.Cut(text, " ")
	switch command {
	case "/quit":
		w.letGo(p, "Goodbye.")
		return w.broadcast(p.name + " left")
	case "/list":
		w.tell(p, w.roll())
	case "/name":
		name := strings.TrimSpace(rest)
		if name == "" || len(name) > 32 || strings.ContainsAny(name, " \t<>\x1b") || w.find(name) != nil {
			w.tell(p, "That name cannot be had.")
			return nil
		}
		before := p.name
		p.name = name
		return w.broadcast(before + " is now " + name)
	default:
		return w.broadcast("<" + p.name + "> " + text)
	}
	return nil
}

func (w *world) find(name string) *player {
	for p := range w.players {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (w *world) roll() string {
	names := make([]string, 0, len(w.players))
	for p := range w.players {
		names = append(names, p.name)
	}
	return fmt.Sprintf("%d of %d players: %s", len(names), w.slots, strings.Join(names, ", "))
}
