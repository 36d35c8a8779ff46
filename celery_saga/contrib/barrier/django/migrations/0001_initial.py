"""Creates the barrier's table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the table."""

    initial = True

    dependencies = ()

    operations = (
        migrations.CreateModel(
            name="BarrierResult",
            fields=[
                (
                    "step_key",
                    models.CharField(max_length=512, primary_key=True, serialize=False),
                ),
                ("result", models.TextField(null=True)),
                ("created_at", models.BigIntegerField()),
            ],
            options={"db_table": "celery_saga_barrier"},
        ),
    )
