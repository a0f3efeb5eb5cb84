import { useState } from 'react';
import { copyText } from '@/actions/copyText';
import { t } from '@/texts';
import classes from './RequestId.module.css';

/** The id under which the panel's log has what went wrong. Nothing when there was no answer. */
export function RequestId({ id }: { id: string }) {
  const [copied, setCopied] = useState(false);
  if (id === '') return null;
  return (
    <button
      type="button"
      className={classes.id}
      aria-label={t('error.copyId', { id })}
      onClick={async () => setCopied(await copyText(id))}
    >
      {copied ? t('action.copied') : t('error.requestId')} <span className="mono">{id}</span>
    </button>
  );
}
