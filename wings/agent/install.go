package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

func (s *server) removeInstall(ctx context.Context, id string) error {
	s.release(&s.installer)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.a.engine.Remove(ctx, OpRemove, id); err != nil {
		return fmt.Errorf("remove install container: %w", err)
	}
	s.mem.freshInstall, s.mem.staleInstall = false, false
	return nil
}

func (s *server) createInstall(ctx context.Context) error {
	install := s.spec.Install
	if install == nil { // the recipe lost it while it was being made
		s.rec.Install, s.dirty = installPending, true
		return nil
	}
	imageID, err := s.ensureImage(ctx, install.Image)
	if err != nil || imageID == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := prepareData(s.a.store.dataDir(s.id), s.a.own); err != nil {
		return err
	}
	spec := engine.ContainerSpec{
		Name: installName(s.id), ServerID: s.id, TenantID: s.spec.TenantID, Epoch: s.spec.PlacementEpoch, Role: engine.RoleInstall,
		ImageID: imageID, Command: append([]string(nil), install.Entrypoint...), Env: install.Env, WorkDir: s.spec.WorkDir,
		DataDir: s.a.store.dataDir(s.id), Limits: install.Limits, UID: s.a.own.uid, GID: s.a.own.gid,
	}
	if install.Script != "" {
		spec.ScriptDir = s.a.store.scriptDir(s.id)
		if err := prepareScript(spec.ScriptDir, install.Script); err != nil {
			return err
		}
		spec.Command = append(spec.Command, "/mnt/install/"+scriptName)
	}
	if install.Network {
		if spec.Network, err = s.a.engine.EnsureNetwork(ctx, OpNetwork, s.spec.TenantID); err != nil {
			return fmt.Errorf("make the tenant's network: %w", err)
		}
	}
	_, err = s.a.engine.Create(ctx, OpCreate, spec)
	switch {
	case errors.Is(err, engine.ErrConflict):
		s.mem.staleInstall = true
		return nil
	case err != nil:
		return fmt.Errorf("create install container: %w", err)
	}
	s.mem.freshInstall, s.mem.staleInstall = true, false
	return nil
}

func (s *server) installTimeout() int64 {
	if s.spec.Install == nil {
		return 0
	}
	return s.spec.Install.TimeoutS
}

// noteInstall reads the install out and journals how it ended, with its report. The console shows
// what the script printed; nothing of its environment is added.
func (s *server) noteInstall(ctx context.Context, in *input) {
	b := in.w.install
	s.settle(ctx, s.installer)
	if s.installer == nil {
		s.readOut(ctx, b, wire.StreamInstall)
	}
	concluded := s.rec.noteInstall(b.exit, s.installer.witnessed(b))
	s.release(&s.installer)
	if !concluded {
		s.say("The installation was interrupted; it starts again.")
		return
	}
	switch {
	case s.rec.Install == installDone:
		s.say("The installation is complete.")
	case s.rec.InstallTimedOut:
		s.say("The installation was ended because it took too long.")
	default:
		s.say("The installation ended with exit code %d.", b.exit.Code)
	}
	log := strings.Join(s.console.tail(wire.StreamInstall, ringLines, b.startedAt.Add(-readyMargin)), "\n")
	if len(log) > wire.MaxInstallLogBytes {
		log = strings.ToValidUTF8(log[len(log)-wire.MaxInstallLogBytes:], "")
	}
	s.post(wire.Event{Kind: wire.EventInstalled, Install: &wire.InstallReport{
		ServerID: s.id, PlacementEpoch: s.spec.PlacementEpoch, ReinstallCount: s.rec.Observed.ReinstallCount,
		ExitCode: b.exit.Code, TimedOut: s.rec.InstallTimedOut, Log: log,
	}})
}
