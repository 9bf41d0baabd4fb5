package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// sectorSize is what a disk writes whole or not at all. File systems have blocks of
// this size; ext4 does not survive half of its superblock without a repair.
const sectorSize = 4096

// A lossyDisk is a disk with a write cache that forgets: what was written and
// not flushed is lost at a power cut, sector by sector, in any combination and
// order. It counts the writes and flushes that change it.
type lossyDisk struct {
	mu      sync.Mutex
	durable []byte
	cached  map[int][][]byte // versions of a sector since the last flush, oldest first
	changes int
	// onChange is called after each write or flush, with their number.
	onChange func(changes int)
}

func newLossyDisk(image []byte) *lossyDisk {
	return &lossyDisk{durable: image, cached: map[int][][]byte{}}
}

func (d *lossyDisk) read(p []byte, offset int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(p) > 0 {
		sector, at := offset/sectorSize, offset%sectorSize
		from := d.durable[sector*sectorSize : (sector+1)*sectorSize]
		if versions := d.cached[sector]; len(versions) > 0 {
			from = versions[len(versions)-1]
		}
		n := copy(p, from[at:])
		p, offset = p[n:], offset+n
	}
}

// write caches the sectors; with durably (force unit access) it stores them
// past the cache.
func (d *lossyDisk) write(p []byte, offset int, durably bool) {
	d.mu.Lock()
	for i := 0; i < len(p); i += sectorSize {
		sector := (offset + i) / sectorSize
		data := append([]byte(nil), p[i:i+sectorSize]...)
		if durably {
			copy(d.durable[sector*sectorSize:], data)
			delete(d.cached, sector)
		} else {
			d.cached[sector] = append(d.cached[sector], data)
		}
	}
	d.changed()
}

func (d *lossyDisk) flush() {
	d.mu.Lock()
	for sector, versions := range d.cached {
		copy(d.durable[sector*sectorSize:], versions[len(versions)-1])
	}
	clear(d.cached)
	d.changed()
}

// changed counts and unlocks.
func (d *lossyDisk) changed() {
	d.changes++
	n := d.changes
	d.mu.Unlock()
	if d.onChange != nil {
		d.onChange(n)
	}
}

// cut returns what the disk holds after a power cut: of each sector that was
// not flushed the old content or any version of it.
func (d *lossyDisk) cut(random *rand.Rand) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	image := append([]byte(nil), d.durable...)
	for sector, versions := range d.cached {
		if k := random.IntN(len(versions) + 1); k < len(versions) {
			copy(image[sector*sectorSize:], versions[k])
		}
	}
	return image
}

// The parts of the network block device protocol that QEMU uses, see
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
const (
	nbdFlags        = 1<<0 | 1<<2 | 1<<3 // has flags, has flush, has force unit access
	nbdOptAbort     = 2
	nbdOptGo        = 7
	nbdRepAck       = 1
	nbdRepInfo      = 3
	nbdRepUnknown   = 1<<31 | 1
	nbdRead         = 0
	nbdWrite        = 1
	nbdDisconnect   = 2
	nbdFlush        = 3
	nbdFUA          = 1 << 0
	nbdRequestMagic = 0x25609513
	nbdReplyMagic   = 0x67446698
	nbdOptionMagic  = 0x49484156454F5054 // IHAVEOPT
)

// serve speaks the protocol on one connection until the peer is gone.
func (d *lossyDisk) serve(conn net.Conn) error {
	defer conn.Close()
	if err := d.negotiate(conn); err != nil {
		return err
	}
	for {
		var r struct {
			Magic       uint32
			Flags, Type uint16
			Handle      uint64
			Offset      uint64
			Length      uint32
		}
		if err := binary.Read(conn, binary.BigEndian, &r); err != nil {
			return err
		}
		if r.Magic != nbdRequestMagic || r.Type == nbdWrite && (r.Offset%sectorSize != 0 || r.Length%sectorSize != 0) || r.Offset+uint64(r.Length) > uint64(len(d.durable)) {
			return fmt.Errorf("request %+v is not understood", r)
		}
		var data []byte
		switch r.Type {
		case nbdRead:
			data = make([]byte, r.Length)
			d.read(data, int(r.Offset))
		case nbdWrite:
			p := make([]byte, r.Length)
			if _, err := io.ReadFull(conn, p); err != nil {
				return err
			}
			d.write(p, int(r.Offset), r.Flags&nbdFUA != 0)
		case nbdFlush:
			d.flush()
		case nbdDisconnect:
			return nil
		default:
			return fmt.Errorf("request type %d was not offered", r.Type)
		}
		reply := binary.BigEndian.AppendUint32(nil, nbdReplyMagic)
		reply = binary.BigEndian.AppendUint32(reply, 0)
		reply = binary.BigEndian.AppendUint64(reply, r.Handle)
		if _, err := conn.Write(append(reply, data...)); err != nil {
			return err
		}
	}
}

func (d *lossyDisk) negotiate(conn net.Conn) error {
	if _, err := conn.Write([]byte("NBDMAGICIHAVEOPT\x00\x03")); err != nil { // fixed newstyle, no zeroes
		return err
	}
	var clientFlags uint32
	if err := binary.Read(conn, binary.BigEndian, &clientFlags); err != nil {
		return err
	}
	for {
		var o struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(conn, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != nbdOptionMagic || o.Length > 4096 {
			return errors.New("option is not understood")
		}
		if _, err := io.CopyN(io.Discard, conn, int64(o.Length)); err != nil {
			return err
		}
		answer := func(kind uint32, data []byte) error {
			p := binary.BigEndian.AppendUint64(nil, 0x3e889045565a9)
			p = binary.BigEndian.AppendUint32(p, o.Option)
			p = binary.BigEndian.AppendUint32(p, kind)
			p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
			_, err := conn.Write(append(p, data...))
			return err
		}
		switch o.Option {
		case nbdOptGo:
			info := binary.BigEndian.AppendUint16(nil, 0) // the export
			info = binary.BigEndian.AppendUint64(info, uint64(len(d.durable)))
			info = binary.BigEndian.AppendUint16(info, nbdFlags)
			return errors.Join(answer(nbdRepInfo, info), answer(nbdRepAck, nil))
		case nbdOptAbort:
			return errors.Join(answer(nbdRepAck, nil), io.EOF)
		default:
			if err := answer(nbdRepUnknown, nil); err != nil {
				return err
			}
		}
	}
}

func TestLossyDiskForgetsWhatWasNotFlushed(t *testing.T) {
	t.Parallel()
	sector := func(c byte) []byte {
		p := make([]byte, sectorSize)
		for i := range p {
			p[i] = c
		}
		return p
	}
	d := newLossyDisk(make([]byte, 4*sectorSize))
	d.write(append(sector('a'), sector('b')...), 0, false)
	d.flush()
	d.write(sector('A'), 0, false)
	d.write(sector('C'), 2*sectorSize, true)
	got := make([]byte, 3*sectorSize)
	d.read(got, 0)
	if got[0] != 'A' || got[sectorSize] != 'b' || got[2*sectorSize] != 'C' {
		t.Fatalf("reads %q", []byte{got[0], got[sectorSize], got[2*sectorSize]})
	}
	first, random := map[byte]int{}, rand.New(rand.NewPCG(1, 2))
	for range 100 {
		image := d.cut(random)
		first[image[0]]++
		if image[sectorSize] != 'b' || image[2*sectorSize] != 'C' {
			t.Fatal("a cut lost what was durable")
		}
	}
	if first['a'] == 0 || first['A'] == 0 || len(first) != 2 {
		t.Errorf("of the cached sector, cuts left %v", first)
	}
}
