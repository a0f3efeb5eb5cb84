package metering

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// The victim of a kill is this test binary with these variables: where its store is, and from which
// sequence on it stores.
const (
	victimMedium = "METERING_VICTIM_MEDIUM" // sqlite or postgres
	victimTarget = "METERING_VICTIM_TARGET" // path or URL
	victimFrom   = "METERING_VICTIM_FROM"
)

// victim stores one delivery of three samples after the other and prints what is acknowledged.
func victim() {
	st, err := openVictim()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var seq int64
	_, _ = fmt.Sscan(os.Getenv(victimFrom), &seq)
	const base = 1_790_000_010 // each sequence has a window of its own, whoever stores it
	for {
		d := deliver(row(1, 1, seq+1, base+30*seq), row(1, 1, seq+2, base+30*seq+30), row(1, 1, seq+3, base+30*seq+60))
		acked, err := st.Take(context.Background(), d)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		seq = acked
		fmt.Println(acked)
	}
}

func openVictim() (Store, error) {
	if os.Getenv(victimMedium) == "sqlite" {
		return OpenSQLite(os.Getenv(victimTarget))
	}
	pool, err := pgxpool.New(context.Background(), os.Getenv(victimTarget))
	if err != nil {
		return nil, err
	}
	return OpenPostgres(context.Background(), pool, "")
}

// A panel that is killed at any instant has every sample that it acknowledged, once.
func TestT17_KillsLoseNoAcknowledgedSample(t *testing.T) {
	t.Parallel()
	const kills = 12
	for _, medium := range []string{"sqlite", "postgres"} {
		t.Run(medium, func(t *testing.T) {
			t.Parallel()
			target := filepath.Join(t.TempDir(), "samples.db")
			if medium == "postgres" {
				target = postgrestest.URL(t)
			}
			var acked int64
			for range kills {
				acked = killOne(t, medium, target, acked)
			}
			var st Store
			var err error
			if medium == "sqlite" {
				st, err = OpenSQLite(target)
			} else {
				st, err = OpenPostgres(context.Background(), newPool(t, target), "")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			got := read(t, st, Range{Server: id("server", 1), ToUnixS: 1 << 40})
			seen := map[int64]bool{}
			for _, r := range got {
				seen[r.Sample.CPUUsedNS/1_000_003] = true // its sequence
			}
			for seq := int64(1); seq <= acked; seq++ {
				if !seen[seq] {
					t.Fatalf("sample %d of %d acknowledged ones is gone", seq, acked)
				}
			}
			if int64(len(got)) > acked+3 {
				t.Errorf("%d samples, %d were acknowledged and 3 may have been under way", len(got), acked)
			}
			t.Logf("%d kills, %d samples acknowledged, 0 lost", kills, acked)
		})
	}
}

// killOne runs a victim from a sequence on, kills it, and returns the last that it acknowledged.
func killOne(t *testing.T, medium, target string, from int64) int64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimMedium+"="+medium, victimTarget+"="+target, fmt.Sprint(victimFrom, "=", from))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked, lines := from, bufio.NewScanner(out)
	for n, kill := 0, 1+rand.IntN(20); lines.Scan(); n++ {
		if _, err := fmt.Sscan(lines.Text(), &acked); err != nil {
			t.Error(err)
		}
		if n == kill {
			time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // killed
	if acked == from {
		t.Fatal("the victim stored nothing")
	}
	return acked
}
