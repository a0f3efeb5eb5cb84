// Short messages in the corner: what was done, with an undo where there is one, and what failed.
import { notifications } from '@mantine/notifications';
import { asApiError } from '@/api/error';
import { t } from '@/texts';
import { RequestId } from './RequestId';
import classes from './toast.module.css';

const SHOWN_MS = 5000;
const SHOWN_LONG_MS = 9000;

/** Says what was done. `undo` is offered for as long as the message stands. */
export function toastDone(message: string, undo?: () => void): void {
  const id = notifications.show({
    message: undo ? (
      <span className={classes.row}>
        {message}
        <button
          type="button"
          className={classes.undo}
          onClick={() => {
            notifications.hide(id);
            undo();
          }}
        >
          {t('action.undo')}
        </button>
      </span>
    ) : (
      message
    ),
    autoClose: undo ? SHOWN_LONG_MS : SHOWN_MS,
    closeButtonProps: { 'aria-label': t('action.close') },
    className: classes.toast,
    withBorder: true,
  });
}

/** Says what failed, in the panel's words, with the request id to copy. */
export function toastError(cause: unknown): void {
  const error = asApiError(cause);
  notifications.show({
    message: (
      <span className={classes.stack}>
        {error.message}
        <RequestId id={error.requestId} />
      </span>
    ),
    color: 'red',
    autoClose: SHOWN_LONG_MS,
    closeButtonProps: { 'aria-label': t('action.close') },
    className: classes.toast,
    withBorder: true,
  });
}
