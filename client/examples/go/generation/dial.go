package generation

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// probes notice a connection that is lost without being closed. The server ends connections that are probed more often
// than every 10 s.
var probes = grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second})

// Dial connects in plain text, or with TLS if an authority is named. grpc-go supports both options throughout 1.x; from
// 1.63 on, grpc.NewClient and credentials/insecure are their successors.
func Dial(address, ca string) (*grpc.ClientConn, error) {
	if ca == "" {
		return grpc.Dial(address, grpc.WithInsecure(), probes)
	}
	transport, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return nil, err
	}
	return grpc.Dial(address, grpc.WithTransportCredentials(transport), probes)
}
