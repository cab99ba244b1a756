# Makes what the object store has to hold: for each NAME a bucket, a policy that reaches this bucket alone, and a user
# with this policy, whose key is in /etc/keys/NAME. Changes nothing where all of it is there, except that a user gets
# the secret that the file has now. The image has no more than a shell and mc.
set -euo pipefail

until mc ready store; do sleep 2; done

for name in flts mlflow; do
  mc mb --ignore-existing "store/$name"

  policy=/tmp/$name.json
  printf '%s\n' '{
    "Version": "2012-10-17",
    "Statement": [
      {"Effect": "Allow", "Resource": ["arn:aws:s3:::'"$name"'"],
       "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]},
      {"Effect": "Allow", "Resource": ["arn:aws:s3:::'"$name"'/*"],
       "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject",
                  "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]}
    ]
  }' > "$policy"
  mc admin policy create store "$name" "$policy"

  user=$(< "/etc/keys/$name/AWS_ACCESS_KEY_ID")
  secret=$(< "/etc/keys/$name/AWS_SECRET_ACCESS_KEY")
  # Through standard input: whoever may list processes sees arguments.
  printf '%s\n' "$user" "$secret" | mc admin user add store

  # To attach a policy twice is an error, so look first.
  case $(mc --json admin user info store "$user") in
    *'"policyName"'*"\"$name\""*) ;;
    *) mc admin policy attach store "$name" --user "$user" ;;
  esac
done
