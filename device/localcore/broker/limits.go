package broker

import (
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Limits of AWS IoT Core.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	// MaxPayload is the greatest size of a message.
	MaxPayload             = 128 << 10
	maxClientID            = 128 // bytes
	maxPacket              = 146 << 10
	minClientPacket        = 512
	maxFiltersPerSubscribe = 8
	maxSubscriptions       = 50
	minKeepAlive           = 30 * time.Second
	maxKeepAlive           = 1200 * time.Second // the default too
	maxUnacknowledged      = 100
	maxTopicAliases        = 8
	maxMessageExpiry       = 604800 * time.Second
	publishesPerSecond     = 100 // per connection, both ways
	connectsPerSecond      = 1   // per client id
	accountConnects        = 100 // per second, in the smaller Regions
	accountSubscribes      = 200 // per second, in the smaller Regions
	webSocketLife          = 24 * time.Hour
	pastLife               = 30 * time.Minute // of what is known of a connection that has ended
	numbersLife            = time.Hour        // without a connection, after which they count from 0 again; or the session's expiry
	bytesPerSecond         = 512 << 10        // per connection, both ways
	propertyByteLimit      = 8 << 10          // correlation data; user properties in sum
	maxContentType         = 256

	// storedInterval is the distance of messages that waited for the client: AWS delivers 10 per
	// second.
	// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
	storedInterval = time.Second / 10
	// retryInterval is how long a PUBACK is awaited before the message is sent again. AWS documents
	// only for how long it tries, see retryWindow.
	retryInterval = 30 * time.Second
	// retryWindow is how long AWS resends a message of QoS 1 on one connection before it gives the
	// message up; retryWindow5 with MQTT 5.
	retryWindow  = time.Hour
	retryWindow5 = 960 * time.Second
)

// Limits of our own.
const (
	maxQueuedBytes    = 64 << 20  // of messages for one client
	maxAllQueuedBytes = 512 << 20 // of messages for all clients
	maxRetainedBytes  = 256 << 20 // of retained messages
	maxQueuedQoS0     = 1024      // messages of QoS 0 that wait for one client
	maxUnderway       = 80        // messages on their way to the subscribers of a publisher, beyond which it is slowed
	minUnderway       = 20        // messages on their way to one subscriber that slow nobody
	messageOverhead   = 256       // bytes that a queued message takes besides its content
	maxRequests       = maxUnacknowledged
	maxConnectRates   = 10_000 // client ids whose CONNECTs are counted
	maxSilentTopics   = 1000   // reserved topics that were warned about
	maxPast           = 20_000 // clients that disconnected lately

	handshakeTimeout = 10 * time.Second
	connectTimeout   = 30 * time.Second
	closeTimeout     = time.Second // for the writing of a last packet
	acceptRetry      = time.Second // after a failure to accept
)

// Reasons why a connection ended, by AWS's names.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
const (
	reasonAuthError        = "AUTH_ERROR"
	reasonClientInitiated  = "CLIENT_INITIATED_DISCONNECT"
	reasonClientError      = "CLIENT_ERROR"
	reasonConnectionLost   = "CONNECTION_LOST"
	reasonDuplicateID      = "DUPLICATE_CLIENTID"
	reasonForbidden        = "FORBIDDEN_ACCESS"
	reasonKeepAliveTimeout = "MQTT_KEEP_ALIVE_TIMEOUT"
	reasonServerError      = "SERVER_ERROR"
	reasonServerInitiated  = "SERVER_INITIATED_DISCONNECT"
	reasonAPIInitiated     = "API_INITIATED_DISCONNECT"
	reasonThrottled        = "THROTTLED"
	reasonWebSocketTTL     = "WEBSOCKET_TTL_EXPIRATION"
)

// errUnsupportedPacket answers PUBREC, PUBREL, PUBCOMP and AUTH, and what only a server may send.
var errUnsupportedPacket = packets.Code{Code: packets.ErrProtocolViolation.Code, Reason: "a packet that AWS IoT does not take from clients"}

var overRateReason = fmt.Sprintf("more than %d messages per second; this one is discarded", publishesPerSecond)
