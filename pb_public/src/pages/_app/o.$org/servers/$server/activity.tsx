import { Button } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { activityQuery, serverQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ActivityList } from '@/ui/ActivityList';
import { Card } from '@/ui/Card';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/servers/$server/activity')({ component: ActivityPage });

function ActivityPage() {
  const { org, server: id } = Route.useParams();
  const name = useQuery(serverQuery(org, id)).data?.name ?? '';
  useTitle(`${t('activity.title')} · ${name}`);
  const [pages, setPages] = useState(1);
  return (
    <Card title={t('activity.title')}>
      {Array.from({ length: pages }, (_, i) => i + 1).map((page) => (
        <ActivityPart
          key={page}
          org={org}
          id={id}
          page={page}
          onMore={page === pages ? () => setPages(pages + 1) : undefined}
        />
      ))}
    </Card>
  );
}

function ActivityPart({ org, id, page, onMore }: { org: string; id: string; page: number; onMore?: () => void }) {
  const activity = useQuery(activityQuery(org, id, page));
  const data = activity.data;
  const more = onMore && data && data.page * data.per_page < data.total;
  return (
    <>
      <ActivityList items={data?.items} error={activity.error} retry={() => void activity.refetch()} />
      {more && (
        <Button variant="default" onClick={onMore} mt="sm">
          {t('activity.older')}
        </Button>
      )}
    </>
  );
}
