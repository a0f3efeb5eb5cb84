import { Button } from '@mantine/core';
import { IconCloudOff } from '@tabler/icons-react';
import type { ReactNode } from 'react';
import { asApiError } from '@/api/error';
import { t } from '@/texts';
import classes from './Empty.module.css';
import { RequestId } from './RequestId';

/** What could not be loaded: what happened, what was not lost, a retry, the request id. */
export function Failure({
  cause,
  retry,
  title,
  extra,
}: {
  cause: unknown;
  retry?: () => void;
  title?: string;
  extra?: ReactNode;
}) {
  const error = asApiError(cause);
  return (
    <section className={classes.box} role="alert">
      <span className={classes.icon} data-tone="broken">
        <IconCloudOff size={26} stroke={1.6} aria-hidden="true" />
      </span>
      <h2>{title ?? t('error.title')}</h2>
      <p className="muted">
        {error.message} {t('error.kept')}
      </p>
      <div className={classes.actions}>
        {retry && <Button onClick={retry}>{t('action.retry')}</Button>}
        {extra}
      </div>
      <RequestId id={error.requestId} />
    </section>
  );
}
