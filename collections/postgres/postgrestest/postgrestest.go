// Package postgrestest gives tests a real PostgreSQL and a fresh database each.
//
// It owns the server that it starts (from Debian's /usr/lib/postgresql/*/bin, in a temporary folder,
// on a socket there) and every database that it makes. It refuses to touch a database that it did not
// make, on a server that it was given.
//
// Its one invariant: a database belongs to one test and is dropped with it; what a killed test run
// left is swept by the next one.
//
// It is for tests only and is imported by no binary.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Variable names a server that the test command started for every package: the URL of a superuser,
// whose socket or address is on this machine. Without it each test process starts one of its own.
const Variable = "MAMBA_TEST_POSTGRES"

// role owns the databases: no superuser, as an operator's role is none.
const role = "mamba"

// databasePrefix begins the name of every database: mambatest_<pid of the owner>_<number>.
const databasePrefix = "mambatest_"

// adminTimeout bounds one statement of ours. CREATE DATABASE took 0.1 s, under load 3 s.
const adminTimeout = 60 * time.Second

var made atomic.Int64

// server is the one that all tests of this process use.
var server struct {
	sync.Mutex
	admin    string // URL of the superuser; "" until the first test asks
	strategy string // how CREATE DATABASE copies; "" before PostgreSQL 15, which knows one way only
	own      *cluster
}

// Main runs the tests of a package and stops what they started:
//
//	func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }
//
// A package that has other things to do calls Stop at its end instead.
func Main(m *testing.M) int {
	code := m.Run()
	if err := Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "postgrestest:", err)
		return max(code, 1)
	}
	return code
}

// Stop drops the templates of this process and ends the server that it started, if it did.
func Stop() error {
	server.Lock()
	defer server.Unlock()
	if server.admin == "" {
		return nil
	}
	var err error
	if server.own != nil {
		err = server.own.stop()
	} else {
		err = dropAll(server.admin, func(pid int) bool { return pid == os.Getpid() })
	}
	server.admin, server.own = "", nil
	return err
}

// URL of a new, empty database (UTF8, collation C) for t alone. It is dropped when t ends, so close
// what is connected to it in a cleanup that was registered later.
func URL(t testing.TB) string {
	t.Helper()
	return fresh(t, nil)
}

// Template is a database that was prepared once and is copied for each test.
type Template struct {
	// Prepare fills the database behind the URL and leaves no connection open. It is called once.
	Prepare func(url string) error

	once sync.Once
	name string
	err  error
}

// Make prepares the template, if it was not yet. Clone does so itself; call Make in a TestMain when
// the tests run under a fake clock.
func (p *Template) Make() error {
	p.once.Do(func() {
		admin, err := start()
		if err != nil {
			p.err = err
			return
		}
		name := newName()
		if p.err = create(admin, name, "template0"); p.err != nil {
			return
		}
		if p.err = p.Prepare(as(admin, role, name)); p.err == nil {
			p.name = name
		}
	})
	return p.err
}

// Clone is the URL of a new copy of the template for t alone, dropped when t ends.
func (p *Template) Clone(t testing.TB) string {
	t.Helper()
	return fresh(t, p)
}

// Create makes a copy of the template (of an empty database for nil) that no test owns; drop ends it.
// It is for what has no test at hand; URL and Clone are better.
func Create(p *Template) (url string, drop func() error, err error) {
	template := "template0"
	if p != nil {
		if err := p.Make(); err != nil {
			return "", nil, fmt.Errorf("prepare the template database: %w", err)
		}
		template = p.name
	}
	admin, err := start()
	if err != nil {
		return "", nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	name := newName()
	if err := create(admin, name, template); err != nil {
		return "", nil, err
	}
	return as(admin, role, name), func() error { return execute(admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") }, nil
}

// Server is the URL of the superuser of the server in use, for a child process that shall use the
// same by Variable.
func Server(t testing.TB) string {
	t.Helper()
	admin, err := start()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	return admin
}

func newName() string {
	return databasePrefix + strconv.Itoa(os.Getpid()) + "_" + strconv.FormatInt(made.Add(1), 10)
}

func fresh(t testing.TB, p *Template) string {
	t.Helper()
	url, drop, err := Create(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Errorf("drop the database: %v", err)
		}
	})
	return url
}

// Superuser is the URL of a superuser in the database behind a URL of ours.
func Superuser(t testing.TB, database string) string {
	t.Helper()
	admin, err := start()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return as(admin, "", strings.TrimPrefix(u.Path, "/"))
}

// start returns the URL of the server's superuser, starting a server if there is none.
func start() (string, error) {
	server.Lock()
	defer server.Unlock()
	if server.admin != "" {
		return server.admin, nil
	}
	admin := os.Getenv(Variable)
	var own *cluster
	if admin == "" {
		var err error
		if own, err = startCluster(); err != nil {
			return "", err
		}
		admin = own.url()
	}
	if err := prepareServer(admin); err != nil {
		if own != nil {
			err = errors.Join(err, own.stop())
		}
		return "", err
	}
	server.admin, server.own = admin, own
	return admin, nil
}

// fileCopy copies the files of a template, which costs a third of writing its pages to the log.
const fileCopy = " STRATEGY file_copy"

// prepareServer makes the role and drops what killed test runs left. The caller holds server.
func prepareServer(admin string) error {
	version, err := query(admin, "SHOW server_version_num")
	if err != nil {
		return fmt.Errorf("ask the server for its version: %w", err)
	}
	if n, wrong := strconv.Atoi(version[0]); wrong == nil && n >= 150000 {
		server.strategy = fileCopy
	}
	err = execute(admin, "CREATE ROLE "+role+" LOGIN PASSWORD '"+role+"'")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42710" || pg.Code == "23505") { // it is there, or is being made
		err = nil
	}
	if err != nil {
		return fmt.Errorf("make the role of the tests: %w", err)
	}
	return dropAll(admin, func(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// dropAll drops the databases of the processes that gone says are gone.
func dropAll(admin string, gone func(pid int) bool) error {
	names, err := query(admin, "SELECT datname FROM pg_database WHERE datname LIKE '"+databasePrefix+"%'")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		owner, _, _ := strings.Cut(strings.TrimPrefix(name, databasePrefix), "_")
		if pid, err := strconv.Atoi(owner); err == nil && gone(pid) {
			errs = append(errs, execute(admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"))
		}
	}
	return errors.Join(errs...)
}

func create(admin, name, template string) error {
	server.Lock()
	sql := "CREATE DATABASE " + name + " OWNER " + role + " TEMPLATE " + template + server.strategy
	server.Unlock()
	if template == "template0" {
		sql += " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
	}
	if err := execute(admin, sql); err != nil {
		return fmt.Errorf("make database %s: %w", name, err)
	}
	return nil
}

// as is the URL with another user (if one is named) and database.
func as(admin, user, database string) string {
	u, err := url.Parse(admin)
	if err != nil {
		return admin
	}
	if user != "" {
		u.User = url.UserPassword(user, role)
	}
	u.Path = "/" + database
	return u.String()
}

func execute(target, sql string) error {
	_, err := query(target, sql)
	return err
}

// query returns the first column of the rows. It connects anew each time, so that nothing outlives a
// test or its fake clock.
func query(target, sql string) (column []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	c, err := pgconn.Connect(ctx, target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		for _, row := range r.Rows {
			column = append(column, string(row[0]))
		}
	}
	return column, nil
}
