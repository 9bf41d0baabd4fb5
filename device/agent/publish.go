package agent

import (
	"context"
	"runtime/debug"
	"time"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/session"
)

// AWS IoT's quotas of one connection.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	publishesPerSecond = 100       // what is more is discarded
	maxUnacknowledged  = 99        // fewer than 100
	bytesPerSecond     = 512 << 10 // what is more is delayed
)

const (
	answerTimeout = 30 * time.Second // for an acknowledgement
	maxRejections = 3                // connections in a row that a message may end
)

// settle waits, before a request is sent for the last time that has ended the connections before,
// until this one has lasted. Another client with the thing's name ends a connection too, whatever is
// unanswered.
func settle(ctx context.Context, conn *session.Session, rejections int) error {
	if rejections == maxRejections-1 && sleep(ctx, 5*time.Second) && conn.Err() != nil {
		return session.ErrNotConnected // not by the request
	}
	return context.Cause(ctx)
}

// A publisher sends what is in the outbox.
type publisher struct {
	agent  *agent
	turn   turn
	pace   pace // guarded by the turn
	window window
	// alone: the last connection ended with messages unacknowledged. Until as many are through,
	// each is sent alone, to find the one that AWS IoT denies.
	alone      int
	suspect    uint64        // the message that ended the last connection, alone
	rejections int           // how many connections it has ended in a row
	idle       chan struct{} // receives a value when there is nothing to send
}

// publish sends messages, in their order, until the connection ends.
func (p *publisher) publish(ctx context.Context, conn *session.Session) error {
	began := time.Now()
	for batches := 0; ; {
		// By a clock that has jumped since, as to a wrong year, messages may seem to be too old.
		sent, err := p.publishNext(ctx, conn, began.Add(time.Since(began)))
		if err != nil {
			return err
		}
		if sent {
			batches++
			continue
		}
		if batches >= 3 {
			debug.FreeOSMemory() // of the backlog; the agent may be idle for long now
		}
		batches = 0
		signal(p.idle)
		select {
		case <-p.agent.outbox.Ready():
		case <-time.After(10 * time.Second): // a disk that could not be read
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// publishNext sends the next messages, if there are any that are not too old at the time now.
func (p *publisher) publishNext(ctx context.Context, conn *session.Session, now time.Time) (sent bool, err error) {
	release, err := p.turn.take(ctx, conn)
	if err != nil {
		return false, err
	}
	defer release()
	if err := settle(ctx, conn, p.rejections); err != nil {
		return false, err
	}
	count := maxUnacknowledged
	if p.alone > 0 {
		count = 1
	}
	if count, err = p.pace.wait(ctx, count); err != nil {
		return false, err
	}
	batch, err := p.agent.outbox.Next(now, count, p.window.bytes())
	if err != nil || len(batch) == 0 {
		return false, nil
	}
	return true, p.send(ctx, conn, batch)
}

func (p *publisher) send(ctx context.Context, conn *session.Session, batch []outbox.Message) error {
	messages := make([]session.Message, len(batch))
	bytes := 0
	for i, m := range batch {
		messages[i] = session.Message{Topic: m.Topic, Payload: m.Payload}
		bytes += len(m.Topic) + len(m.Payload)
	}
	p.pace.sent(len(batch), bytes)
	began := time.Now()
	acknowledged, err := conn.PublishAll(ctx, messages...)
	p.window.adapt(time.Since(began))
	if acknowledged > 0 {
		p.alone = max(0, p.alone-acknowledged)
		p.rejections = 0
		// An error is that of the disk: they stay there, and this process does not send them again.
		_ = p.agent.outbox.Acknowledge(batch[acknowledged-1])
	}
	if session.Unanswered(err) != "PUBLISH" {
		return err
	}
	if len(batch) > 1 {
		p.alone = len(batch) - acknowledged
		return err
	}
	m := batch[0]
	if p.suspect != m.Sequence {
		p.suspect, p.rejections = m.Sequence, 0
	}
	p.alone = max(1, p.alone)
	if p.rejections++; p.rejections >= maxRejections {
		p.rejections = 0
		if p.agent.outbox.SetAside(m) == nil {
			p.agent.Log.Error("a message has ended the connection three times in a row and is set aside; the device's policy probably denies its topic",
				"topic", m.Topic, "bytes", len(m.Payload), "stored", m.Stored.UTC(), "error", err)
			p.agent.update(func(s *state) { s.setAside++ })
		}
	}
	return err
}

// A window bounds the bytes that are unacknowledged to what a slow link takes in a fraction of
// answerTimeout: bytesPerSecond, divided by two that often.
type window uint

func (w window) bytes() int { return bytesPerSecond >> w }

// adapt takes how long the acknowledgements of the last ones took.
func (w *window) adapt(took time.Duration) {
	switch {
	case took > answerTimeout/6 && *w < 6:
		*w++
	case took < answerTimeout/30 && *w > 0:
		*w--
	}
}

// A pace keeps publishes within AWS IoT's rates.
type pace struct {
	times [publishesPerSecond]time.Time // of the last publishes, a ring
	next  int                           // the oldest of times
	after time.Time                     // when the bytes of the last publishes are through
}

// wait returns when at least one publish is allowed, and how many are, up to most.
func (p *pace) wait(ctx context.Context, most int) (int, error) {
	const second = time.Second + 50*time.Millisecond // a network may press them together
	now := time.Now()
	due := p.times[p.next].Add(second)
	if due.Before(p.after) {
		due = p.after
	}
	if now.Before(due) {
		if !sleep(ctx, due.Sub(now)) {
			return 0, context.Cause(ctx)
		}
		now = due
	}
	n := 1
	for n < most && !now.Before(p.times[(p.next+n)%len(p.times)].Add(second)) {
		n++
	}
	return n, nil
}

func (p *pace) sent(n, bytes int) {
	now := time.Now()
	for range n {
		p.times[p.next] = now
		p.next = (p.next + 1) % len(p.times)
	}
	p.after = now.Add(time.Duration(bytes) * time.Second / bytesPerSecond)
}
