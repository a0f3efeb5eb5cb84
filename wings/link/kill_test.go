package link

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// victimDir makes this test binary a node that renews its identity again and again in that folder.
const victimDir = "LINK_VICTIM_DIR"

func victim() int {
	dir := os.Getenv(victimDir)
	for n := 0; ; n++ {
		id, err := loadIdentity(dir)
		if err == nil {
			id.Instances = []string{fmt.Sprintf("127.0.0.1:%d", 1+n%60_000)}
			err = id.save(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if n == 0 {
			fmt.Println("begin")
		}
	}
}

// Whenever a node is killed while it stores an identity, it has the old one or the new one.
func TestT14_AKillLeavesAUsableIdentity(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	const kills = 20
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !bufio.NewScanner(out).Scan() {
			t.Error("the victim did not begin")
		}
		<-time.After(rand.N(20 * time.Millisecond)) // where the kill falls is the point of the test
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if _, err := loadIdentity(dir); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
	}
	l := open(t, dir)
	if err := l.heartbeat(t.Context()); err != nil {
		l.learn([]string{p.addr()}) // the addresses are the victim's; the identity is what counts
		if err := l.heartbeat(t.Context()); err != nil {
			t.Errorf("the panel does not know it any more: %v", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "."+identityFile+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind, with a key in each: %v", left)
	}
	t.Logf("T14: %d kills while an identity was stored, 0 unusable", kills)
}
