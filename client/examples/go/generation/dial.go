package generation

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Dial connects in plain text, or with TLS if an authority is named. grpc-go supports both options throughout 1.x; from
// 1.63 on, grpc.NewClient and credentials/insecure are their successors.
func Dial(address, ca string) (*grpc.ClientConn, error) {
	if ca == "" {
		return grpc.Dial(address, grpc.WithInsecure())
	}
	transport, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return nil, err
	}
	return grpc.Dial(address, grpc.WithTransportCredentials(transport))
}
