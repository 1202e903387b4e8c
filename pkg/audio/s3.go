package audio

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	_ "gocloud.dev/blob/s3blob" // s3://
)

// s3Address makes answers of S3 go unchecked beyond what TLS does, unless it
// says otherwise: other makers' S3 seldom send checksums, and the SDK complains
// of each that is missing, past our log.
func s3Address(u *url.URL) string {
	const validation = "response_checksum_validation"
	q := u.Query()
	if !q.Has(validation) {
		q.Set(validation, "when_required")
	}
	with := *u
	with.RawQuery = q.Encode()
	return with.String()
}

// abortPatience is how long S3 may take to drop an upload's parts.
const abortPatience = 5 * time.Second

// upload is what must be known of an upload to S3 to clear away what it leaves
// when it fails.
type upload struct {
	client *s3.Client // nil for another kind of store
	input  *transfermanager.UploadObjectInput
}

// note is a hook of blob.WriterOptions.
func (u *upload) note(as func(any) bool) error {
	as(&u.input)
	return nil
}

// clear drops the parts that a failed upload left, which no listing shows and
// which are paid for. The SDK tries it too, but with the upload's own context,
// and the end of that may be the failure. What a kill leaves needs a rule of the
// bucket's, AbortIncompleteMultipartUpload.
func (u *upload) clear(ctx context.Context, failure error) error {
	failed, ok := errors.AsType[transfermanager.MultipartUploadError](failure)
	if !ok || u.client == nil || u.input == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortPatience)
	defer cancel()
	_, err := u.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: u.input.Bucket, Key: u.input.Key, UploadId: aws.String(failed.UploadID()),
	})
	if _, gone := errors.AsType[*types.NoSuchUpload](err); gone {
		return nil
	}
	return err
}
