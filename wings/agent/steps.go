package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Op labels of every engine call the agent makes. Each is a crash point that the fault tests
// enumerate: error before, error after it happened, kill.
const (
	OpInfo          = "engine.info"
	OpImage         = "engine.image"
	OpNetwork       = "engine.network"
	OpNetworkRemove = "engine.network_remove"
	OpCreate        = "engine.create"
	OpStart         = "engine.start"
	OpSignal        = "engine.signal"
	OpRemove        = "engine.remove"
	OpInspect       = "engine.inspect"
	OpList          = "engine.list"
	OpWait          = "engine.wait"
	OpLogs          = "engine.logs"
	OpStdin         = "engine.stdin"
)

// Ops lists every op label, for tests that enumerate them.
func Ops() []string {
	return []string{OpInfo, OpImage, OpNetwork, OpNetworkRemove, OpCreate, OpStart, OpSignal, OpRemove,
		OpInspect, OpList, OpWait, OpLogs, OpStdin}
}

// journals are the steps that only write the record; what they lead to is shown by the next row.
var journals = map[step]bool{stepAskStop: true, stepAskKill: true, stepNoteExit: true, stepTakeCounters: true,
	stepReinstall: true, stepSkipInstall: true, stepBeginInstall: true, stepTimeOut: true, stepNoteInstall: true,
	stepNotReady: true, stepNoteReady: true, stepNoteStable: true, stepNoteCertain: true}

// launches are the steps towards a run that are given up after maxLaunchTries.
var launches = map[step]bool{stepPull: true, stepCreate: true, stepStart: true, stepCreateInstall: true, stepStartInstall: true}

// progressStep names what a state on its way is doing, as wire.Progress lists it.
func progressStep(do step, state wire.State) string {
	switch {
	case do == stepCreate, do == stepRemove:
		return "create"
	case do == stepStart:
		return "start"
	}
	switch state {
	case wire.StatePulling:
		return "pull"
	case wire.StateInstalling:
		return "install"
	case wire.StateStarting:
		return "ready"
	case wire.StateStopping:
		return "stop"
	case wire.StateDeleting:
		return "delete"
	}
	return ""
}

// do does one step of the table. pause > 0: look again only then, or on an event.
func (s *server) do(ctx context.Context, in *input, r *row) (pause time.Duration, err error) {
	s.dirty = s.dirty || journals[r.do]
	switch r.do {
	case stepAskStop, stepAskKill:
		s.askStop(in, r.do == stepAskKill)
	case stepSendStop:
		return 0, s.sendStop(ctx, in)
	case stepKill:
		return killRecheck, s.signal(ctx, in.w.game.id, "SIGKILL")
	case stepKillInstall:
		return killRecheck, s.signal(ctx, in.w.install.id, "SIGKILL")
	case stepNoteExit:
		return 0, s.noteExit(ctx, in)
	case stepTakeCounters:
		s.rec.takeCounters(s.spec)
	case stepRemove:
		return 0, s.remove(ctx, in.w.game.id)
	case stepRemoveInstall:
		return 0, s.removeInstall(ctx, in.w.install.id)
	case stepReinstall:
		s.rec.beginReinstall(s.spec)
	case stepSkipInstall:
		s.rec.Install, s.rec.Observed.Installed = installDone, true
	case stepPull:
		return 0, s.pull(ctx)
	case stepBeginInstall:
		s.rec.Install, s.rec.InstallTimedOut = installRunning, false
		s.say("Installing %s.", s.spec.Blueprint.ID)
	case stepCreateInstall:
		return 0, s.createInstall(ctx)
	case stepStartInstall:
		return 0, s.start(ctx, in.w.install.id)
	case stepTimeOut:
		s.rec.InstallTimedOut = true
		s.say("The installation took longer than %d seconds and is ended.", s.installTimeout())
	case stepNoteInstall:
		s.noteInstall(ctx, in)
	case stepCreate:
		s.missing(in)
		return 0, s.create(ctx)
	case stepStart:
		return 0, s.startGame(ctx, in)
	case stepNotReady:
		s.rec.Failure = notReadyProblem(s.spec.Ready.TimeoutS)
		s.rec.askStop(in.w.game, false, in.now)
		s.say("The server was not ready within %d seconds and is stopped.", s.spec.Ready.TimeoutS)
	case stepNoteReady:
		s.rec.Ready, s.rec.Trouble = boxRun(in.w.game), nil
		s.say("The server is ready.")
	case stepNoteStable:
		s.rec.Observed.CrashCount = 0
	case stepNoteCertain:
		s.rec.CrashAt = time.Time{}
	case stepWipe:
		return 0, s.wipe(ctx)
	case stepForget:
		return 0, s.forget(ctx)
	default:
		return 0, fmt.Errorf("no such step %q", r.do)
	}
	return 0, nil
}

func (s *server) askStop(in *input, kill bool) {
	s.rec.askStop(in.w.game, kill, in.now)
	if kill {
		s.rec.Observed.KillCount = s.spec.KillCount
		s.say("Killing the server.")
		return
	}
	if wanted(in) && restartDue(in) { // it comes back by itself: this was the restart
		s.rec.takeCounters(s.spec)
		s.say("Restarting the server.")
		return
	}
	s.say("Stopping the server.")
}

// sendStop tells the game to end in its own way. It is sent again after wings was killed.
func (s *server) sendStop(ctx context.Context, in *input) error {
	var err error
	if s.spec.Stop.Kind == wire.StopCommand {
		err = s.typeLine(ctx, in.w.game.id, s.spec.Stop.Value)
		if errors.Is(err, engine.ErrNotRunning) || errors.Is(err, engine.ErrNotFound) {
			err = nil
		}
	} else {
		signal := s.spec.Stop.Value
		if signal == "" {
			signal = "SIGTERM"
		}
		err = s.signal(ctx, in.w.game.id, signal)
	}
	if err == nil {
		s.mem.askSent = boxRun(in.w.game)
	}
	return err
}

func (s *server) signal(ctx context.Context, id, signal string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.a.engine.Signal(ctx, OpSignal, id, signal)
	if errors.Is(err, engine.ErrNotRunning) || errors.Is(err, engine.ErrNotFound) {
		return nil // the next look sees it
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", signal, err)
	}
	return nil
}

// typeLine writes one line to a container's input.
func (s *server) typeLine(ctx context.Context, id, line string) error {
	ctx, cancel := context.WithTimeout(ctx, stdinTimeout)
	defer cancel()
	in, err := s.a.engine.Stdin(ctx, OpStdin, id)
	if err != nil {
		return fmt.Errorf("open the game's input: %w", err)
	}
	_, err = io.WriteString(in, line+"\n")
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write to the game's input: %w", err)
	}
	return nil
}

// noteExit reads the run out, decides whose doing its end was, and journals it with its report.
func (s *server) noteExit(ctx context.Context, in *input) error {
	b := in.w.game
	s.settle(ctx, s.game)
	witnessed := s.game.witnessed(b)
	if witnessed && !s.rec.asked(b) { // an engine that is being stopped ends its games, then answers no more
		ictx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.a.engine.Info(ictx, OpInfo)
		cancel()
		witnessed = err == nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.game == nil {
		s.readOut(ctx, b, wire.StreamOut)
	}
	began := s.beganBy(b)
	v := s.rec.noteExit(s.spec, b, witnessed, time.Now())
	s.release(&s.game)
	s.mem = memory{}
	s.say("%s", exitSentence(v, b.exit))
	if v == verdictCrash || v == verdictGiveUp {
		s.post(wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{
			ServerID: s.id, PlacementEpoch: s.spec.PlacementEpoch, ContainerID: b.id,
			ExitCode: b.exit.Code, OOMKilled: b.exit.OOMKilled,
			Attempt: s.rec.Observed.CrashCount, GivenUp: v == verdictGiveUp,
			LastLines: s.console.tail(wire.StreamOut, crashLines, began),
		}})
	}
	return nil
}

func exitSentence(v verdict, exit engine.Exit) string {
	switch v {
	case verdictAsked:
		return "The server has stopped."
	case verdictLost:
		return fmt.Sprintf("The server ended with exit code %d while the node or its engine was away; it is started again.", exit.Code)
	case verdictClean:
		return "The server was stopped from inside the game."
	case verdictGiveUp:
		return fmt.Sprintf("The server crashed with exit code %d. It is not started again by itself.", exit.Code)
	}
	return fmt.Sprintf("The server crashed with exit code %d. It is started again.", exit.Code)
}

// settle gives a watch of a run that has ended a bounded time to see the end and the last lines.
func (s *server) settle(ctx context.Context, w *watch) {
	if w == nil {
		return
	}
	t := time.NewTimer(drainTimeout)
	defer t.Stop()
	for _, c := range []chan struct{}{w.ended, w.drained} {
		select {
		case <-c:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// readOut reads what is left of the output of a run that ended while nobody watched.
func (s *server) readOut(ctx context.Context, b box, stream wire.ConsoleStream) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	r := reader{s: s, w: &watch{run: boxRun(b), stream: stream}}
	r.run(ctx)
}

func (s *server) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.a.engine.Remove(ctx, OpRemove, id); err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	s.mem.fresh, s.mem.stale = false, false
	return nil
}

func (s *server) pull(ctx context.Context) error {
	id, err := s.ensureImage(ctx, s.spec.Image)
	if err == nil {
		s.mem.imageID = id
	}
	return err
}

type pulled struct {
	percent int
	message string
}

// ensureImage shows the pull's progress meanwhile, and lets go of it when a newer spec arrives.
func (s *server) ensureImage(ctx context.Context, image wire.Image) (string, error) {
	pullCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(chan pulled, 1) // only the latest matters
	type outcome struct {
		id  string
		err error
	}
	done := make(chan outcome, 1)
	go func() { // ended by cancel, waited for below
		id, err := s.a.engine.EnsureImage(pullCtx, OpImage, image, func(percent int, message string) {
			select {
			case <-told:
			default:
			}
			select {
			case told <- pulled{percent, message}:
			default:
			}
		})
		done <- outcome{id, err}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case o := <-done:
			if o.err != nil && s.pending != nil {
				return "", nil // let go of; the new spec decides
			}
			if o.err != nil {
				return "", fmt.Errorf("make the image available: %w", o.err)
			}
			return o.id, nil
		case s.pending = <-s.specs:
			cancel()
		case <-tick.C:
			s.showPull(ctx, told)
		}
	}
}

func (s *server) showPull(ctx context.Context, told <-chan pulled) {
	select {
	case p := <-told:
		o := s.rec.Observed
		o.Progress = wire.Progress{Step: "pull", Percent: max(p.percent, 0), Message: p.message}
		s.publish(o)
		if err := s.save(ctx); err != nil {
			s.log.Warn("write down the pull's progress", "error", err)
		}
	default:
	}
}

// missing tells of a container that ran when it was last seen and is gone: somebody removed it.
func (s *server) missing(in *input) {
	if in.w.game.there() || s.rec.Ready.zero() {
		return
	}
	s.release(&s.game)
	s.rec.Ready, s.dirty = run{}, true
	s.console.hole()
	s.say("The server's container was removed from outside; it is made again.")
}

func (s *server) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := prepareData(s.a.store.dataDir(s.id), s.a.own); err != nil {
		return err
	}
	network, err := s.a.engine.EnsureNetwork(ctx, OpNetwork, s.spec.TenantID)
	if err != nil {
		return fmt.Errorf("make the tenant's network: %w", err)
	}
	_, err = s.a.engine.Create(ctx, OpCreate, s.gameSpec(network))
	switch {
	case errors.Is(err, engine.ErrConflict):
		s.mem.stale = true
		return nil
	case err != nil:
		s.mem.imageID = "" // it may have been removed
		return fmt.Errorf("create container: %w", err)
	}
	s.mem.fresh, s.mem.stale = true, false
	return nil
}

func (s *server) gameSpec(network string) engine.ContainerSpec {
	return engine.ContainerSpec{
		Name: gameName(s.id), ServerID: s.id, TenantID: s.spec.TenantID, Epoch: s.spec.PlacementEpoch, Role: engine.RoleGame,
		ImageID: s.mem.imageID, Command: s.spec.Command, Env: s.spec.Env, WorkDir: s.spec.WorkDir,
		DataDir: s.a.store.dataDir(s.id), Network: network, Ports: s.spec.Ports, Limits: s.spec.Limits,
		UID: s.a.own.uid, GID: s.a.own.gid, Stdin: true,
	}
}

// startGame renders the config files and starts. What was verified is verified again on an error.
func (s *server) startGame(ctx context.Context, in *input) error {
	if err := renderFiles(s.a.store.dataDir(s.id), s.spec.Files, s.a.cfg.Render, s.a.own); err != nil {
		return err
	}
	s.say("Starting the server.")
	if err := s.start(ctx, in.w.game.id); err != nil {
		s.mem.fresh = false
		return err
	}
	return nil
}

func (s *server) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.a.engine.Start(ctx, OpStart, id); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

// wipe journals that the data is going, then removes it.
func (s *server) wipe(ctx context.Context) error {
	s.release(&s.game)
	s.release(&s.installer)
	s.rec.Wiping, s.rec.Install, s.rec.Observed.Installed, s.dirty = true, installPending, false, true
	if err := s.save(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.a.store.dataDir(s.id)); err != nil {
		return fmt.Errorf("remove the server's data: %w", err)
	}
	return nil
}

// forget leaves a tombstone and nothing else. A spec that arrived meanwhile goes before it.
func (s *server) forget(ctx context.Context) error {
	nctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.a.engine.RemoveNetworkIfUnused(nctx, OpNetworkRemove, s.spec.TenantID); err != nil {
		return fmt.Errorf("remove the tenant's network: %w", err)
	}
	select {
	case s.intake <- struct{}{}:
		defer func() { <-s.intake }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	newer := s.accepted != s.spec
	s.mu.Unlock()
	if newer {
		return nil
	}
	o := s.rec.Observed
	t := &tombstone{At: time.Now().UTC().Round(0), Observed: wire.Observed{
		ServerID: s.id, PlacementEpoch: o.PlacementEpoch, Generation: o.Generation, Settled: true, State: wire.StateAbsent,
		DeleteID: s.spec.DeleteID, RestartCount: o.RestartCount, KillCount: o.KillCount, ReinstallCount: o.ReinstallCount,
		Revision: s.rec.Published.Revision + 1, At: time.Now().UTC().Round(0),
	}}
	if err := s.a.store.bury(t); err != nil {
		return fmt.Errorf("bury server %s: %w", s.id, err)
	}
	if err := s.a.store.removeServer(s.id); err != nil {
		return err
	}
	s.mu.Lock()
	s.gone, s.shown = true, t.Observed
	s.mu.Unlock()
	s.console.close()
	s.a.buried(s, t)
	return errBuried
}
