package demo

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// console reads the operator's commands until stdin or the game ends.
func (w *world) console(stdin io.Reader) {
	scan := bufio.NewScanner(stdin)
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		if line == "" {
			continue
		}
		if !w.send(func() error { return w.command(line) }) {
			return
		}
	}
}

func (w *world) command(line string) error {
	name, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch name {
	case "say":
		return w.broadcast("[server] " + rest)
	case "list":
		w.printf("%s", w.roll())
	case "kick":
		p := w.find(rest)
		if p == nil {
			w.printf("There is no player %q", rest)
			return nil
		}
		w.letGo(p, "You were kicked.")
		return w.broadcast(p.name + " was kicked")
	case "save":
		return w.save()
	case "flood":
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 || n > maxFlood {
			w.printf("flood needs a number from 1 to %d", maxFlood)
			return nil
		}
		for i := range n {
			w.printf("flood %d of %d", i+1, n)
		}
	case "crash":
		w.printf("Crashing, as told")
		return &ExitError{Code: crashCode}
	case "stop":
		return errStop
	case "help":
		w.printf("Commands: say TEXT, list, kick NAME, save, flood N, crash, stop")
	default:
		w.printf("Unknown command %q; help lists them", name)
	}
	return nil
}

// save brings the chat and the world file to the disk.
func (w *world) save() error {
	if err := w.chat.Sync(); err != nil {
		return fmt.Errorf("save the chat: %w", err)
	}
	body := fmt.Sprintf("saved %s\nplayers so far %d\n", time.Now().UTC().Format(time.RFC3339), w.serial)
	if err := replace(w.dir, worldName, body); err != nil {
		return err
	}
	w.printf("Saved")
	return nil
}

// replace writes a file of the world as one.
func replace(dir, name, body string) error {
	tmp := filepath.Join(dir, "."+name+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = io.WriteString(f, body)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Install is what demo-install does: it makes the config file and an empty world in the working
// folder (flag --dir), saying how far it is. It keeps a config file that is there, and ends with the
// code in $DEMO_INSTALL_EXIT (an ExitError unless 0) so that a failing install can be shown.
func Install(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet(InstallCommand, flag.ContinueOnError)
	flags.SetOutput(stdout)
	dir := flags.String("dir", ".", "folder of the world")
	if err := flags.Parse(args); err != nil {
		return &ExitError{Code: 2}
	}
	fmt.Fprintln(stdout, "Preparing the demo world (0 %)")
	config := filepath.Join(*dir, configName)
	if _, err := os.Stat(config); errors.Is(err, os.ErrNotExist) {
		if err := replace(*dir, configName, "# The demo world's settings\nmotd="+DefaultMOTD+"\nmax-clients="+strconv.Itoa(defaultClients)+"\n"); err != nil {
			return err
		}
	}
	fmt.Fprintln(stdout, "Wrote demo.properties (50 %)")
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := replace(*dir, worldName, "a new world\n"); err != nil {
		return err
	}
	code, err := strconv.Atoi(os.Getenv("DEMO_INSTALL_EXIT"))
	if err == nil && code != 0 {
		fmt.Fprintf(stdout, "The installation fails with exit code %d, as told\n", code)
		return &ExitError{Code: code}
	}
	fmt.Fprintln(stdout, "Made the world (100 %)")
	return nil
}
