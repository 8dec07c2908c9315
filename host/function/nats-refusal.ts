/** What a NATS server does not let a client do, as an error that says how to be let. */
import { errors } from '@nats-io/nats-core';
import { HatchError } from '../base/errors.ts';

/** The refusal that an error of the client is or was caused by; undefined when it is another. */
export function natsRefusal(error: unknown): HatchError | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof errors.PermissionViolationError) return forbidden(cause);
    if (
      cause instanceof errors.AuthorizationError ||
      cause instanceof errors.UserAuthenticationExpiredError
    ) {
      const message =
        `The NATS server has refused the credentials (${cause.message}): check the token, nkey ` +
        'or credentials file, and that the server knows this user';
      return new HatchError('request.forbidden', message, { cause });
    }
  }
  return undefined;
}

function forbidden(cause: InstanceType<typeof errors.PermissionViolationError>): HatchError {
  const { operation, subject } = cause;
  const verb = operation === 'publish' ? 'publish to' : 'subscribe to';
  const isInbox = operation !== 'publish' && subject.startsWith('_INBOX');
  const advice = isInbox
    ? 'name the inbox prefix that it allows (--inbox-prefix, HATCH_NATS_INBOX_PREFIX)'
    : 'use those of a user who may, or have it allowed (ops/nats/README.md says who needs what)';
  return new HatchError(
    'request.forbidden',
    `The NATS server does not let these credentials ${verb} "${subject}": ${advice}`,
    { cause, details: { operation, subject } },
  );
}
