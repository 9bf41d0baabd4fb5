package identity

import (
	"errors"
	"strings"
	"testing"
)

// pendingReplacement returns a disk with an identity and a replacement that is at the given stage,
// and the id of the identity's certificate.
func pendingReplacement(t *testing.T, stage Stage) (*memDisk, *cloud, string) {
	t.Helper()
	d, c := provisioned(t)
	j, err := storeOn(t, d).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	steps := []func() error{
		j.MakeKey,
		func() error { return j.HoldCertificate(c.create(t, j.Key().Public())) },
		func() error { return j.Register(Registration{ThingName: "other_" + serial}) },
		j.Commit,
	}
	for _, step := range steps[:stage] {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return d, c, c.active[0]
}

func TestDiscardPendingKeepsTheIdentity(t *testing.T) {
	for stage := KeyMade; stage <= Registered; stage++ {
		t.Run(stage.String(), func(t *testing.T) {
			d, _, old := pendingReplacement(t, stage)
			s := storeOn(t, d)
			if st := s.Status(); st.State != Present || st.Identity.Record.CertificateID != old || st.Pending == nil || st.Pending.Stage != stage {
				t.Errorf("before: %+v", st)
			}
			p, err := s.DiscardPending()
			if err != nil || p == nil || p.Stage != stage {
				t.Errorf("discarded %+v, %v", p, err)
			}
			d = d.reboot(power)
			if st := storeOn(t, d).Status(); st.State != Present || st.Identity.Record.CertificateID != old || st.Pending != nil || len(st.Problems) > 0 {
				t.Errorf("after: %+v", st)
			}
			for _, path := range d.paths() {
				if strings.Contains(path, "journal") {
					t.Errorf("left: %s", path)
				}
			}
		})
	}
}

func TestDiscardPendingEndsADamagedJournal(t *testing.T) {
	d, _, _ := pendingReplacement(t, Registered)
	for path, n := range d.files() {
		if strings.Contains(path, "journal.") {
			n.data = damage(n.data)
		}
	}
	s := storeOn(t, d)
	if _, err := s.DiscardPending(); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Present || len(st.Problems) > 0 {
		t.Errorf("after: %+v", st)
	}
}

func TestDiscardPendingInstallsWhatIsCommitted(t *testing.T) {
	d, _, old := pendingReplacement(t, Committed)
	s := storeOn(t, d)
	if p, err := s.DiscardPending(); p != nil || err != nil {
		t.Errorf("discarded %+v, %v", p, err)
	}
	if id, err := s.Load(); err != nil || id.Record.Replaces != old {
		t.Errorf("identity %+v, %v", id, err)
	}
}

func TestDiscardPendingNeedsAnIdentityToKeep(t *testing.T) {
	d := atRegistered(t)
	s := storeOn(t, d)
	if _, err := s.DiscardPending(); !errors.Is(err, ErrNone) {
		t.Errorf("DiscardPending() error = %v", err)
	}
	if p := s.Status().Pending; p == nil || p.Stage != Registered {
		t.Errorf("pending is %+v", p)
	}
}
