import { IconCheck, IconCopy } from '@tabler/icons-react';
import { useEffect, useState } from 'react';
import { copyText } from '@/actions/copyText';
import { t } from '@/texts';
import classes from './CopyAddress.module.css';

const SHOWN_MS = 1500;

/** An address that is copied by a click. */
export function CopyAddress({ address }: { address: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <button
      type="button"
      className={classes.button}
      aria-label={t('server.copyAddress', { address })}
      onClick={async () => setCopied(await copyText(address))}
    >
      <span className="mono">{address}</span>
      {copied ? (
        <IconCheck size={15} aria-hidden="true" className={classes.ok} />
      ) : (
        <IconCopy size={15} aria-hidden="true" />
      )}
      <span role="status" className={classes.said}>
        {copied ? t('action.copied') : ''}
      </span>
    </button>
  );
}
